"""What all cells of the study of domains share."""

from __future__ import annotations

from dataclasses import dataclass

from plasticity_env.common.arguments import check_counts
from plasticity_env.common.errors import InputError
from plasticity_env.common.values import LARGEST_RATE, check_number, plain_value

HOME = "shakespeare"  # what the embedded models were pretrained on


@dataclass(frozen=True)
class Setting:
    """What all cells of one table share, and the arguments of the study."""

    texts: tuple[str, ...] = ("mixed:python", "mixed:table")
    """new texts, in the order in which they come"""
    unknown: str = "mixed:json"
    """a text that nobody learns, which the test for new domains should notice"""
    steps: int = 300
    """optimizer steps on each new text"""
    whole_rate: float = 1e-3
    """learning rate of AdamW where all weights are trained"""
    domain_rate: float = 3e-3
    """learning rate of AdamW where a domain is"""
    given_share: float = 0.4
    """share of the units' FLOPs that the first text gives up, or that a pruned domain goes without"""
    mlp_blocks: int = 4
    """MLP blocks a layer, beside the heads"""
    batch_size: int = 8
    """sequences in a batch"""
    length: int = 64
    """tokens in a sequence"""
    calibration_blocks: int = 64
    """sequences that units are priced and repaired on, and that the router knows of each text"""
    test_blocks: int = 256
    """sequences of test text"""
    held_blocks: int = 640
    """sequences of each known text that the test for new domains is fitted on"""
    window: int = 8
    """sequences in a row that it judges together, beside one at a time"""
    false_alarms: float = 0.01
    """stated rate of its false alarms"""

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            object.__setattr__(self, name, plain_value(getattr(self, name)))
        if not self.texts or HOME in self.texts or self.unknown in (HOME, *self.texts):
            raise InputError(
                f"texts and unknown must be other texts than {HOME!r} and than each other; got {self.texts}"
            )
        least = {"batch_size": 1, "length": 2, "calibration_blocks": 1, "test_blocks": 1, "held_blocks": 4, "window": 2}
        check_counts(self, steps=1, mlp_blocks=0, **least)
        for name in ("given_share", "false_alarms"):
            check_number(name, getattr(self, name), 0, 1, above=True, below=True)
        for name in ("whole_rate", "domain_rate"):
            check_number(name, getattr(self, name), 0, LARGEST_RATE, above=True)
