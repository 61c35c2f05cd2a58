"""Arguments of a search for the thresholds of the classic rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from plasticity_env.common.arguments import check_counts, flags
from plasticity_env.common.values import LARGEST_RATE, check_number
from plasticity_env.envs.settings import MEASURING_ARGUMENTS, Settings


@dataclass(frozen=True)
class TuningConfig:
    """Arguments of a search."""

    model_name: str = "bard-gpt2-4x4,bard-llama-4x8,bard-gpt2-6x8,bard-llama-6x8"
    """language models to tune on, separated by commas"""
    pruned_share: str = "0.1,0.6"
    """share of heads to prune, or the range that it is drawn from"""
    rounds: str = "4"
    """numbers of decisions that episodes have, separated by commas"""
    reference: str = "fisher"
    """rule whose loss on the same scenario is the unit"""
    population: int = 8
    """candidates per generation"""
    scenarios: int = 8
    """scenarios that every candidate plays; models take turns, shares spread over the range"""
    generations: int = 8
    """generations in all"""
    sigma: float = 0.25
    """first step size; every threshold's range is 1 wide"""
    validation: int = 8
    """further scenarios that help to choose the result, and as many others on which it is compared with the rule's defaults"""
    seed: int = 0
    """seed of everything that is random"""
    settings: Annotated[Settings, flags(Settings, "reward_blocks", *MEASURING_ARGUMENTS)] = Settings(
        calibration_blocks=8, reward_blocks=8, device="auto"
    )
    """arguments of the environments"""

    def __post_init__(self) -> None:
        check_counts(self, population=4, scenarios=1, generations=1, validation=1, seed=0)
        check_number("sigma", self.sigma, 0, LARGEST_RATE, above=True)
