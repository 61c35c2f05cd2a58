"""The plasticity cycle told stage by stage, from the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import tyro

from plasticity_env.agents.cycle_cli.plasticity_run import run_plasticity
from plasticity_env.agents.cycle_cli.run_arguments import StageArguments
from plasticity_env.cycle.record import CONFIG, RunRecord
from plasticity_env.cycle.run_settings import new_run_path
from plasticity_env.cycle.stages import write_stages

Hidden = tyro.conf.Suppress


def run_stages(arguments: StageArguments, say: Callable[[str], None]) -> RunRecord:
    """Run the cycle, or go on with a run, and write its tables beside its pictures.

    Raises:
        InputError: Arguments that cannot be used; nothing is written.
        KeyboardInterrupt: Ctrl-C; what was measured is on disk, the tables of it included.
    """
    folder = arguments.resume or arguments.output_dir or new_run_path()
    try:
        record = run_plasticity(replace(arguments, output_dir=folder), say, write_stages)
    except KeyboardInterrupt:
        if (folder / CONFIG).is_file():
            write_stages(RunRecord.read(folder))
        raise
    if not (folder / "metrics" / "stages.json").is_file():
        write_stages(record)  # of a run that was finished without them
    return record
