"""What is played in training on `plasticity/HeadRank-v1`."""

from __future__ import annotations

from dataclasses import dataclass

from plasticity_env.common.arguments import check_counts, given
from plasticity_env.common.cli import numbers, words
from plasticity_env.common.errors import InputError
from plasticity_env.common.values import check_number
from plasticity_env.envs.settings import LIMITS, check_range
from plasticity_env.model.modes import PruningMode


@dataclass(frozen=True)
class RankConfig:
    """What is played in training on `plasticity/HeadRank-v1`."""

    pruned_share: str = "0.1,0.6"
    """HeadRank: the share of heads to prune, or the range that it is drawn from"""
    rounds: str = "1,2,4,8"
    """HeadRank: numbers of decisions that episodes have, separated by commas"""
    scenarios: int = 4
    """HeadRank: scenarios (model, mode, rounds, share, blocks) that an update of the native PPO plays"""
    group_size: int = 8
    """HeadRank: how often the native PPO plays each scenario; the group's mean return is each one's baseline"""
    reference: str = "fisher"
    """HeadRank: rule whose rise of the loss on the same scenario is the unit of the return"""
    calibration_sizes: str | None = None
    """HeadRank: numbers of calibration blocks, separated by commas, one for each scenario; unset: --calibration_blocks"""
    warm_start: str | None = None
    """HeadRank: rule that the network imitates before it learns; unset: none"""
    warm_scale: float = 3.0
    """HeadRank: spread of the logits at the end of imitation; a larger spread explores less"""

    def __post_init__(self) -> None:
        check_range("pruned_share", self.shares, *LIMITS["pruned_share"])
        for name in ("rounds", "calibration_sizes"):
            self._whole(name)
        check_counts(self, scenarios=1, group_size=2)
        check_number("warm_scale", self.warm_scale, 0, 1e6, above=True)
        if given(self, "reference", "warm_start"):
            from plasticity_env.controllers.catalogue import make

            for name in (self.reference, *([] if self.warm_start is None else [self.warm_start])):
                make(name)

    @property
    def shares(self) -> tuple[float, float]:
        """The range of shares."""
        found = numbers(self.pruned_share, "pruned_share")
        if len(found) not in (1, 2):
            raise InputError(f"pruned_share must be a number or a range such as 0.1,0.6; got {self.pruned_share!r}")
        return found[0], found[-1]

    @property
    def round_numbers(self) -> tuple[int, ...]:
        """The numbers of decisions."""
        return self._whole("rounds")

    @property
    def sizes(self) -> tuple[int, ...]:
        """The numbers of calibration blocks; empty where the environment's own is taken."""
        return self._whole("calibration_sizes")

    def _whole(self, name: str) -> tuple[int, ...]:
        text = getattr(self, name)
        if text is None:
            return ()
        found = numbers(text, name)
        if not found or any(value != int(value) or value < 1 for value in found):
            raise InputError(f"{name} must be whole numbers of at least 1, separated by commas; got {text!r}")
        return tuple(int(value) for value in found)


def modes_of(text: str) -> list[str]:
    """Modes from their names, separated by commas.

    Raises:
        InputError: If one of them is no mode.
    """
    found = [PruningMode.parse(word).value for word in words(text)]
    if not found:
        raise InputError(f"mode must be adaptive, compressed, or both separated by a comma; got {text!r}")
    return found
