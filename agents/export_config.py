"""The arguments of an export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from plasticity_env.common.arguments import check_counts, flags, given
from plasticity_env.common.errors import InputError, unknown
from plasticity_env.common.values import user_path
from plasticity_env.envs.settings import MEASURING_ARGUMENTS, UNIT_ARGUMENTS, Settings

DTYPES = ("float32", "float16", "bfloat16")  # names in torch


@dataclass(frozen=True)
class ExportConfig:
    """Arguments of an export."""

    settings: Annotated[Settings, flags(Settings, "model_name", *UNIT_ARGUMENTS, *MEASURING_ARGUMENTS)] = Settings(
        calibration_blocks=32, reward_blocks=1, device="auto"
    )
    """arguments of the environment that prunes; the model may be a checkpoint of a pruned model"""
    format: str = "masked"
    """masked (stock shapes), uniform (stock, smaller, as many heads in each layer) or compact (smallest, needs this package)"""
    output_path: Path | None = None
    """a new folder; unset: one under runs/"""
    pruning_level: float = 0.0
    """share of heads to prune first; 0 exports the model as it is"""
    uniform_heads: int | None = None
    """with --format uniform: heads that each layer keeps, instead of --pruning_level"""
    strategy: str = "fisher"
    """what chooses the heads: fisher, gradient, random, ..., ann (the shipped network), or the folder of a saved controller"""
    rounds: int = 1
    """number of rounds of measuring, pruning and repairing"""
    test_blocks: int = 16
    """blocks of the test split that say what pruning cost"""
    dtype: str = "float32"
    """type of the weights in the file: float32, float16 or bfloat16"""
    seed: int = 0
    """draws the calibration blocks"""

    def __post_init__(self) -> None:
        if given(self, "format", "strategy"):
            self._check_names()
        if self.dtype not in DTYPES:
            raise unknown("dtype", self.dtype, DTYPES)
        if not 0 <= self.pruning_level < 1:
            raise InputError(f"pruning_level must lie in [0, 1), got {self.pruning_level!r}")
        if self.uniform_heads is not None and (self.format != "uniform" or self.pruning_level > 0):
            raise InputError("--uniform_heads is for --format uniform, and replaces --pruning_level")
        if self.rounds > 1 and self.format == "uniform":
            raise InputError(f"--format uniform prunes in one round, got {self.rounds}: leave --rounds out")
        check_counts(self, test_blocks=1, rounds=1, seed=0)

    def _check_names(self) -> None:
        from plasticity_env.controllers.catalogue import SCORES, make
        from plasticity_env.model.stock.stock_files import check_format

        check_format(self.format)
        if self.strategy == "ann" or self.strategy.startswith("ann:"):
            make(self.strategy)  # refuses one that is not shipped
        elif self.strategy not in SCORES and not user_path(self.strategy).is_dir():
            raise unknown("strategy", self.strategy, [*SCORES, "ann"], ", or the folder of a saved controller")

    @property
    def prunes(self) -> bool:
        """Whether heads are to be pruned before the export."""
        return self.pruning_level > 0 or self.uniform_heads is not None
