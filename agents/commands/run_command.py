"""``plasticity run``: run the plasticity cycle, with one strategy or with all of them."""

from __future__ import annotations

from plasticity_env.agents.commands.command import Command
from plasticity_env.agents.cycle_cli.run_arguments import QUICK, RunArguments


def main(config: RunArguments) -> None:
    """Run the plasticity cycle: warm up, then measure, prune, grow and fine-tune in cycles, beside a control arm."""
    from plasticity_env.agents.cycle_cli.plasticity_run import (
        conclusion,
        other_strategy,
        run_comparison,
        run_plasticity,
    )
    from plasticity_env.cycle.run_comparison import table_of

    if config.compare_strategies:
        folder, rows = run_comparison(config, say=print)
        print(table_of(rows))
    else:
        record = run_plasticity(config, say=print)
        folder = record.folder
        print("\n".join(conclusion(record)))
        if (other := other_strategy(record.settings)) is not None:
            print(other)
        print(f"page: {folder / 'dashboards' / 'dashboard.html'}")
    print(f"run: {folder}")


COMMAND = Command("run", RunArguments, main, QUICK)
