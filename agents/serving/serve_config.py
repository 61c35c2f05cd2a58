"""The arguments of the server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from plasticity_env.common.arguments import check_counts
from plasticity_env.common.errors import InputError
from plasticity_env.common.values import check_number


@dataclass(frozen=True)
class ServeConfig:
    """Arguments of the server."""

    bank: Path | None = None
    """folder of a bank that plasticity bank, or StructureBank.save, wrote"""
    model_name: str | None = None
    """the model that the bank was fitted on: an embedded name, a Hugging Face folder, a GGUF file or a hub name; with --demo
    mixed-llama-4x8 unless another embedded one is named"""
    demo: bool = False
    """fit a small bank on an embedded model first, which takes less than a minute"""
    share: float | None = None
    """which share of the units the structures prune that the router picks from, where the bank has several"""
    router: Path | None = None
    """folder of a learned router that was trained for this bank; unset: the structure whose texts begin most alike"""
    price: float | None = None
    """price of FLOPs at which a learned router picks; unset: the one that it was saved with"""
    mlp_blocks: int = 0
    """blocks of MLP neurons a layer that are units beside the heads, as the bank was fitted"""
    prefix_tokens: int = 32
    """tokens of a prompt that the router reads"""
    prefix_structure: str | None = None
    """structure that these tokens run under: dense, mixture@0.5, ...; unset: the mixture's where the bank knows
    prefixes under it and no learned router picks, else dense"""
    switch_every: int | None = None
    """pick again after each so many new tokens; unset: once a request"""
    compacted: bool = False
    """run requests of one structure together on a smaller model of its own, instead of all in one masked pass"""
    batch_size: int = 8
    """most requests that run together"""
    waiting: int = 64
    """most requests in the queue; a further one is answered with 429"""
    max_tokens: int = 256
    """most new tokens that a request may ask for"""
    max_prompt_tokens: int = 1024
    """most tokens of a prompt"""
    max_body: int = 262144
    """most bytes of a request's body"""
    host: str = "127.0.0.1"
    """address to listen at; any but a loopback address lets others in"""
    port: int = 8000
    """port to listen at; 0 takes a free one"""
    browser: bool = False
    """open the page in a browser"""
    device: str = "auto"
    """device to run on: auto, cpu, cuda, ..."""

    def __post_init__(self) -> None:
        counts = {
            "prefix_tokens": 1,
            "batch_size": 1,
            "waiting": 1,
            "max_tokens": 1,
            "max_prompt_tokens": 2,
            "max_body": 1,
        }
        check_counts(self, **counts, switch_every=1, port=0, mlp_blocks=0)
        if self.share is not None:
            check_number("share", self.share, 0, 1, above=True, below=True)
        if self.price is not None:
            check_number("price", self.price, 0, above=True)
            if self.router is None:
                raise InputError("--price is for a learned router: name one with --router FOLDER")
        if self.router is not None and self.share is not None:
            raise InputError("--share is for the router of the nearest texts: leave out --share, or leave out --router")
        if self.router is not None and self.prefix_structure not in (None, "dense"):
            raise InputError(
                f"a learned router knows dense prefixes only, got --prefix_structure {self.prefix_structure}: leave it "
                "or --router out"
            )
        if self.port > 65535:
            raise InputError(f"port must lie in [0, 65535], got {self.port}: 0 takes a free one")
        if self.compacted and self.switch_every is not None:
            raise InputError(
                "--switch_every changes structures while a text is made, which --compacted models cannot: leave one out"
            )
