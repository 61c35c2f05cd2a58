"""Arguments of `plasticity/Stream-v0`, checked where they enter."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from plasticity_env.common.arguments import check_counts
from plasticity_env.common.errors import InputError, UnexpectedArgumentError, unknown
from plasticity_env.common.values import brief, check_number, check_text, plain_value
from plasticity_env.envs.settings import OBSERVATIONS, check_range

SPLITS = ("train", "test")


@dataclass(frozen=True)
class StreamSettings:
    """What a stream is made of; JSON-able.

    Attributes:
        model_name: An embedded name, a Hugging Face folder or hub name, or a GGUF file.
        datasets: Kinds of text that the stream drifts between, as the other environments' ``dataset`` names each.
        split: Split that the stream is made of: train, or test, which agents that learn never see. Structures are
            fitted on calibration text in any case.
        chunks: Chunks of an episode.
        stage: Chunks until the kind changes: a number, or a range sampled at each change.
        max_length: Tokens of a chunk.
        fit_blocks: Chunks of calibration text of each kind that the bank's structures are fitted on.
        share: Share of the heads that structures prune.
        prior_tokens: Tokens that the mixture of all kinds counts for in a new measurement.
        forget: What an older measured chunk still counts for at the next measurement.
        flop_price: Price of a nat of log FLOPs: a number, or a range sampled log-uniformly at reset.
        observation: dict or flat.
        batch_size: Sequences in one pass while structures are fitted.
        device: Device to run on.
    """

    model_name: str = "mixed-llama-4x8"
    datasets: tuple[str, ...] = ("mixed:shakespeare", "mixed:python", "mixed:json", "mixed:table")
    split: str = "train"
    chunks: int = 32
    stage: int | tuple[int, int] = (3, 10)
    max_length: int = 64
    fit_blocks: int = 16
    share: float = 0.5
    prior_tokens: float = 2048.0
    forget: float = 0.8
    flop_price: float | tuple[float, float] = (0.5, 4.0)
    observation: str = "dict"
    batch_size: int = 8
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            object.__setattr__(self, name, plain_value(getattr(self, name)))
        if (
            not isinstance(self.datasets, tuple)
            or not self.datasets
            or not all(isinstance(d, str) for d in self.datasets)
        ):
            raise InputError(f"datasets must be names of texts, got {brief(self.datasets)}")
        if len(set(self.datasets)) < len(self.datasets):
            raise InputError(f"datasets names a text twice: {', '.join(self.datasets)}")
        for name in ("model_name", "split", "observation", "device"):
            check_text(name, getattr(self, name))
        if self.split not in SPLITS:
            raise unknown("split", self.split, SPLITS)
        if self.observation not in OBSERVATIONS:
            raise unknown("observation", self.observation, OBSERVATIONS)
        check_counts(self, chunks=1, max_length=2, fit_blocks=1, batch_size=1)
        check_range("stage", self.stage, 0, 1e6)
        check_range("flop_price", self.flop_price, 0, 1e6)
        check_number("share", self.share, 0, 1, above=True, below=True)
        check_number("prior_tokens", self.prior_tokens, 1)
        check_number("forget", self.forget, 0, 1)

    @classmethod
    def read(cls, values: dict[str, Any]) -> StreamSettings:
        """Make settings of keyword arguments.

        Raises:
            InputError: A name or value that is not known.
        """
        names = [each.name for each in fields(cls)]
        for name in values:
            if name not in names:
                raise UnexpectedArgumentError(f"unexpected keyword argument {name!r}: known are {', '.join(names)}")
        return cls(**values)
