"""The names of `plasticity_env.growth`, and the files that they come from."""

from .base import InitialWeights as InitialWeights
from .base import Source as Source
from .grow import GROWTH_STRATEGIES as GROWTH_STRATEGIES
from .grow import BalancedStrategy as BalancedStrategy
from .grow import EntropyGapStrategy as EntropyGapStrategy
from .grow import GradientSensitivityStrategy as GradientSensitivityStrategy
from .grow import GrowthResult as GrowthResult
from .grow import grow_attention_heads_gradually as grow_attention_heads_gradually
from .initial_weights import INITIAL_WEIGHTS as INITIAL_WEIGHTS
from .initial_weights import register_initial_weights as register_initial_weights
from .schedule import WarmupSchedule as WarmupSchedule
from .skip import UNetSkip as UNetSkip
