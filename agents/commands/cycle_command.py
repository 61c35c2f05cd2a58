"""``plasticity cycle``: run the plasticity cycle stage by stage."""

from __future__ import annotations

from plasticity_env.agents.commands.command import Command
from plasticity_env.agents.cycle_cli.run_arguments import QUICK, StageArguments


def main(config: StageArguments) -> None:
    """Run the plasticity cycle beside a control arm, and report it stage by stage in tables and pictures."""
    from plasticity_env.agents.cycle_cli.plasticity_run import other_strategy
    from plasticity_env.agents.cycle_cli.stage_run import run_stages
    from plasticity_env.cycle.stages import cycle_rows, cycle_table, head_maps, stage_rows, stage_table

    record = run_stages(config, say=print)
    print(f"\n{stage_table(stage_rows(record))}\n{head_maps(record)}")
    if len(cycles := cycle_rows(record)) > 1:
        print(cycle_table(cycles))
    if (other := other_strategy(record.settings)) is not None:
        print(other)
    print(f"pictures: {record.folder / 'visualizations'}")
    print(f"page: {record.folder / 'dashboards' / 'dashboard.html'}")
    print(f"run: {record.folder}")


COMMAND = Command("cycle", StageArguments, main, {**QUICK, "initial_pruning": QUICK["pruning_level"]})
