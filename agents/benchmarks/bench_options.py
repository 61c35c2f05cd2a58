"""The arguments that the benchmarks share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from plasticity_env.common import cli
from plasticity_env.common.arguments import check_counts, flags
from plasticity_env.common.errors import InputError
from plasticity_env.common.stopwatch import Clock
from plasticity_env.common.values import check_number
from plasticity_env.envs.settings import Settings
from plasticity_env.model.embedded import embedded_models

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from plasticity_env.data.text import TextSplits
    from plasticity_env.model.loading import LoadedModel


@dataclass(frozen=True)
class Options:
    """Arguments that every benchmark reads; one that has no use for an argument ignores it."""

    models: str = ""
    """models, separated by commas; unset: all embedded ones"""
    lengths: str = "256"
    """tokens per sequence, separated by commas"""
    tokens: int = 2048
    """tokens in a batch"""
    settings: Annotated[Settings, flags(Settings, "dataset", "dataset_config", "text_split", "device")] = Settings(
        device="auto"
    )
    """arguments of the environment"""
    sparsities: str = "0.3,0.5"
    """shares of heads to remove, separated by commas (compact), or of the units' FLOPs (decode)"""
    envs: str = "1,4,16"
    """numbers of environments, separated by commas (vector, engines; route takes 256 unless others are given)"""
    mlp_blocks: str = "0,8"
    """blocks of MLP neurons a layer, separated by commas; 0: heads alone are units (price, decode)"""
    runners: str = "0,2"
    """numbers of Ray's env runners, separated by commas; empty leaves Ray out (engines)"""
    memory_share: float = 0.02
    """share of the model's bytes that each environment may add (vector)"""
    processes: bool = True
    """also time Gymnasium's environments in processes of their own, one each (vector)"""
    new_tokens: int = 64
    """tokens that are generated (decode)"""
    test_tokens: int = 4096
    """tokens that perplexity is measured on (compact)"""
    rounds: int = 7
    """rounds that are counted, after a warm-up"""
    clock: Clock = "wall"
    """seconds by the wall, or "cpu": processor seconds on one thread, for a machine that does other work (not vector, entropy)"""

    def check(self) -> list[int]:
        """The lengths as numbers.

        Raises:
            InputError: No length, no round, or a batch shorter than one sequence.
        """
        from plasticity_env.model.loading import check_device

        given = cli.numbers(self.lengths, "lengths")
        if not given:
            raise InputError("--lengths is empty: give at least one number of tokens")
        if any(length < 2 or not length.is_integer() for length in given):
            raise InputError(f"--lengths wants whole numbers of at least 2 tokens, got {self.lengths!r}")
        lengths = [int(length) for length in given]
        if self.rounds < 1 or any(self.tokens < length for length in lengths):
            raise InputError(f"rounds must be at least 1 and tokens ({self.tokens}) at least the longest of {lengths}")
        for name in ("sparsities", "envs", "runners"):
            cli.numbers(getattr(self, name), name)
        for share in cli.numbers(self.sparsities, "sparsities"):
            check_number("sparsities", share, 0, 1, below=True)
        check_number("memory_share", self.memory_share, 0)
        check_counts(self, test_tokens=1, new_tokens=1)
        device = self.settings.device
        if self.clock == "cpu" and not device.startswith(("cpu", "auto")):
            raise InputError(f"processor seconds say nothing about device {device!r}: leave --clock at wall")
        if check_device(device).type != "cpu" and self.clock == "cpu":
            raise InputError("processor seconds say nothing about this machine's GPU: add --device cpu")
        return lengths

    def loaded(self) -> Iterator[tuple[LoadedModel, TextSplits]]:
        """Every model with its text packed at every length."""
        from plasticity_env.model.loading import load_model

        lengths = self.check()
        for name in cli.words(self.models) or embedded_models():
            loaded = load_model(name, device=self.settings.device)
            for length in lengths:
                yield loaded, self.text(loaded.tokenizer, length)

    def text(self, tokenizer: PreTrainedTokenizerBase, length: int) -> TextSplits:
        """The text, packed at a length."""
        return replace(self.settings, max_length=length).load(tokenizer)


def whole_numbers(text: str, name: str, least: int) -> list[int]:
    """Read comma-separated whole numbers; none at all are allowed where 0 is.

    Raises:
        InputError: Something in between is no whole number of at least ``least``.
    """
    numbers = cli.numbers(text, name)
    if any(value < least or value != int(value) for value in numbers) or (least and not numbers):
        raise InputError(f"--{name} wants whole numbers of at least {least}, separated by commas, got {text!r}")
    return [int(value) for value in numbers]


def endless(text: TextSplits, sequences: int, device: str) -> dict[str, Any]:
    """Settings of environments that are timed: episodes that do not end.

    Args:
        text: Packed at the sequence length to measure.
        sequences: Number of sequences in the calibration batch, and in the reward batch.
        device: Device that the models lie on.
    """
    batches = {"calibration_blocks": sequences, "reward_blocks": sequences, "max_length": text.block_size}
    return {"text": text, **batches, "horizon": 1_000_000, "flop_price": 4.0, "device": device}


def start_method(device: str) -> str | None:
    """How worker processes start: a CUDA context does not survive a fork; None is the platform's own way."""
    return "spawn" if device.startswith("cuda") else None
