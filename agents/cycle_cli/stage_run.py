"""The plasticity cycle told stage by stage, from the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated

import tyro

from plasticity_env.agents.cycle_cli.plasticity_run import RunArguments, run_plasticity
from plasticity_env.common.errors import InputError
from plasticity_env.cycle.record import CONFIG, RunRecord
from plasticity_env.cycle.run_settings import ExperimentSettings, new_run_path
from plasticity_env.cycle.stages import write_stages

Hidden = tyro.conf.Suppress


@dataclass(frozen=True)
class StageArguments(RunArguments):
    """Arguments of a plasticity cycle that is told stage by stage."""

    dataset: str = "tiny_shakespeare"
    """text: tiny_shakespeare (embedded), a path, or a hub data set"""
    initial_pruning: float = 0.3
    """share of all head slots that is pruned when a cycle's pruning is over, in [0, 1)"""
    pruning_level: Annotated[float, Hidden] = 0.0
    """taken from initial_pruning"""
    compare_strategies: Annotated[bool, Hidden] = False
    """of run_neural_plasticity.py"""
    strategies: Annotated[str, Hidden] = ""
    """of run_neural_plasticity.py"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.initial_pruning < 1:
            raise InputError(
                f"initial_pruning must lie in [0, 1), got {self.initial_pruning!r}: 0.3 prunes three heads in ten"
            )

    def settings(self) -> ExperimentSettings:
        return replace(super().settings(), pruning_level=self.initial_pruning)


def run_stages(arguments: StageArguments, say: Callable[[str], None]) -> RunRecord:
    """Run the cycle, or go on with a run, and write its tables beside its pictures.

    Raises:
        InputError: Arguments that cannot be used; nothing is written.
        KeyboardInterrupt: Ctrl-C; what was measured is on disk, the tables of it included.
    """
    folder = arguments.resume or arguments.output_dir or new_run_path()
    try:
        record = run_plasticity(replace(arguments, output_dir=folder), say)
    except KeyboardInterrupt:
        if (folder / CONFIG).is_file():
            write_stages(RunRecord.read(folder))
        raise
    write_stages(record)
    return record
