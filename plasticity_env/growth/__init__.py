"""Growth: new heads in the slots of pruned ones, chosen by a strategy, behind gates that open slowly."""

from plasticity_env.growth.base import InitialWeights, Source
from plasticity_env.growth.grow import GrowthResult, grow_attention_heads_gradually
from plasticity_env.growth.initial_weights import INITIAL_WEIGHTS, register_initial_weights
from plasticity_env.growth.schedule import WarmupSchedule
from plasticity_env.growth.skip import UNetSkip
from plasticity_env.strategies.growing import (
    GROWTH_STRATEGIES,
    BalancedStrategy,
    EntropyGapStrategy,
    GradientSensitivityStrategy,
)

__all__ = [
    "GROWTH_STRATEGIES",
    "INITIAL_WEIGHTS",
    "BalancedStrategy",
    "EntropyGapStrategy",
    "GradientSensitivityStrategy",
    "GrowthResult",
    "InitialWeights",
    "Source",
    "UNetSkip",
    "WarmupSchedule",
    "grow_attention_heads_gradually",
    "register_initial_weights",
]
