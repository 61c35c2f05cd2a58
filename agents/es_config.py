"""Arguments of a search by CMA-ES."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from plasticity_env.common.arguments import check_counts, flags, given
from plasticity_env.common.errors import InputError
from plasticity_env.common.values import LARGEST_RATE, check_number
from plasticity_env.envs.settings import MEASURING_ARGUMENTS, Settings

FEATURES = (
    *("fisher_z", "gradient_z", "residual_fisher_z", "residual_gradient_z", "obs_z", "activation_z", "magnitude_z"),
    *("entropy_z", "gate_gradient_z", "fisher_rank", "residual_fisher_rank", "depth", "layer_active", "group_active"),
)


@dataclass(frozen=True)
class ESConfig:
    """Arguments of a search."""

    model_name: str = "bard-gpt2-4x4,bard-llama-4x8"
    """language models to train on, separated by commas"""
    pruned_share: tuple[float, float] = (0.1, 0.6)
    """range of the share of heads to prune"""
    rounds: tuple[int, ...] = (4,)
    """numbers of rounds that scenarios have"""
    features: tuple[str, ...] = FEATURES
    """columns of the observation that the score is linear in"""
    start_feature: str = "residual_fisher_z"
    """feature that the search starts from, alone"""
    reference: str = "fisher"
    """rule whose loss on the same scenario is the unit"""
    population: int = 12
    """candidates per generation"""
    scenarios: int = 4
    """scenarios that a generation plays"""
    generations: int = 40
    """generations in all"""
    sigma: float = 0.3
    """first step size"""
    seed: int = 0
    """seed of everything that is random"""
    settings: Annotated[Settings, flags(Settings, "reward_blocks", *MEASURING_ARGUMENTS)] = Settings(
        calibration_blocks=8, reward_blocks=8, device="auto"
    )
    """arguments of the environments"""

    def __post_init__(self) -> None:
        if given(self, "features", "start_feature"):
            self._check_features()
        check_counts(self, population=4, scenarios=1, generations=1, seed=0)
        if not self.rounds or min(self.rounds) < 1:
            raise InputError(f"rounds must be at least 1, got {self.rounds!r}")
        check_number("sigma", self.sigma, 0, LARGEST_RATE, above=True)
        if given(self, "reference"):
            from plasticity_env.controllers.catalogue import make

            make(self.reference)

    def _check_features(self) -> None:
        from plasticity_env.envs.observation import HEAD_FEATURES

        unknown = [name for name in (*self.features, self.start_feature) if name not in HEAD_FEATURES]
        if unknown:
            raise InputError(f"unknown feature {unknown[0]!r}: known are {', '.join(HEAD_FEATURES)}")
        if self.start_feature not in self.features:
            raise InputError(f"start_feature {self.start_feature!r} must be one of the features")
