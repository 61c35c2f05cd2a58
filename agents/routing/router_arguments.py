"""How a router is trained; the fields are flags of ``plasticity train-router``."""

from __future__ import annotations

from dataclasses import dataclass

from plasticity_env.common.arguments import check_counts
from plasticity_env.common.errors import InputError
from plasticity_env.common.values import LARGEST_RATE, check_number
from plasticity_env.envs.settings import bounds, check_range


@dataclass(frozen=True)
class RouterTraining:
    """Arguments of the training."""

    seed: int = 0
    """seed of weights, draws and shuffles"""
    flop_price: float | tuple[float, float] = (0.1, 4.0)
    """prices of a nat of log FLOPs that the router is for: a number, or a range sampled log-uniformly"""
    warm_start: int = 300
    """most epochs of the regression of all losses; 0 leaves it out"""
    total_steps: int = 100_000
    """environment steps of PPO; 0 leaves it out"""
    num_envs: int = 256
    """environments in the native vector environment"""
    learning_rate: float = 3e-4
    """learning rate of PPO"""
    width: int = 32
    """width of the network's two hidden layers"""
    weight_decay: float = 0.01
    """weight decay of the regression"""
    test_share: float = 0.25
    """share of each kind's texts, the last ones, that are test texts: never learned from"""
    held_out: str = ""
    """kind of text that is not learned from either"""

    def __post_init__(self) -> None:
        check_counts(self, seed=0, warm_start=0, total_steps=0, num_envs=1, width=1)
        check_range("flop_price", self.flop_price, 0.0, 1e6)
        check_number("learning_rate", self.learning_rate, 0, LARGEST_RATE, above=True)
        check_number("weight_decay", self.weight_decay, 0, LARGEST_RATE)
        check_number("test_share", self.test_share, 0, 1, above=True, below=True)
        if not self.warm_start and not self.total_steps:
            raise InputError("warm_start and total_steps are both 0: nothing would be trained")

    @property
    def prices(self) -> tuple[float, float]:
        """The range of prices."""
        return bounds(self.flop_price)
