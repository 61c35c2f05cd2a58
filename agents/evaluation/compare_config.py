"""Arguments of a comparison of controllers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from plasticity_env.common import cli
from plasticity_env.common.arguments import flags
from plasticity_env.common.tracking import TrackingOptions
from plasticity_env.envs.settings import MEASURING_ARGUMENTS, UNIT_ARGUMENTS, Settings
from plasticity_env.strategies.thresholds import Thresholds

if TYPE_CHECKING:
    from plasticity_env.agents.evaluation.evaluation import Protocol


@dataclass(frozen=True)
class CompareConfig:
    """Arguments of a comparison."""

    controllers: str = "random,magnitude,entropy_high,entropy_low,gradient,fisher,obs,activation,plasticity"
    """names or folders of saved controllers, separated by commas; mine=FOLDER calls one by a name of your own"""
    sparsities: str = "0.1,0.2,0.3,0.4,0.5"
    """shares of heads to prune, separated by commas"""
    flop_prices: str = ""
    """prices at which networks also play freely, separated by commas"""
    repair: str = "none,least_squares"
    """repair methods, separated by commas"""
    seeds: int = 3
    """draws of calibration text"""
    rounds: int = 1
    """decisions over which an episode spreads its pruning"""
    env: str = "heads"
    """heads, head_edit or head_rank (whose adaptive mode lets networks bring heads back)"""
    prune_entropy: str = "auto"
    """entropy that the plasticity controller prunes first: high, low or auto"""
    aggressiveness: float | None = None
    """share on the idle side of each threshold of the plasticity controller; unset: found so that it prunes the given shares"""
    thresholds: Annotated[Thresholds, flags(Thresholds)] = Thresholds()
    """thresholds of the plasticity controller; if both, or the aggressiveness, are given, it prunes what they say, not a share"""
    test_blocks: int | None = 32
    """blocks of the test split that are scored; None for all"""
    spread_test: bool = False
    """spread the test blocks evenly over the test split; otherwise its first blocks are used"""
    settings: Annotated[
        Settings, flags(Settings, "model_name", "mode", *MEASURING_ARGUMENTS, *UNIT_ARGUMENTS, hidden=("repair",))
    ] = Settings(reward_blocks=1, device="auto")  # scored on the test split: the reward batch decides nothing here
    """arguments of the environment, except its repair"""
    tracking: TrackingOptions = field(default_factory=TrackingOptions)
    output_dir: Path | None = None
    """folder for the results; unset: a new one under runs/"""

    def protocol(self) -> Protocol:
        """What to play.

        Raises:
            InputError: A sparsity outside [0, 1), no seeds, a price that is not positive.
        """
        from plasticity_env.agents.evaluation.evaluation import Protocol

        return Protocol(
            cli.numbers(self.sparsities, "sparsities"),
            cli.numbers(self.flop_prices, "flop_prices"),
            self.seeds,
            self.rounds,
            self.test_blocks,
            self.spread_test,
        )
