"""Train, prune, measure, grow and learn, in cycles, beside a control arm that trains the same steps unpruned.

python scripts/run_neural_plasticity.py --quick_test
python scripts/run_neural_plasticity.py --model_name bard-gpt2-4x4 --pruning_strategy fisher --pruning_level 0.3
python scripts/run_neural_plasticity.py --model_name bard-gpt2-4x4 --compare_strategies
"""

from __future__ import annotations

from plasticity_env.agents.cycle_cli.plasticity_run import (
    QUICK,
    RunArguments,
    conclusion,
    run_comparison,
    run_plasticity,
    table_of,
)
from plasticity_env.common import cli


def main(arguments: RunArguments) -> None:
    """Run the plasticity cycle: warm up, then measure, prune, grow and fine-tune in cycles, beside a control arm."""
    if arguments.compare_strategies:
        folder, rows = run_comparison(arguments, say=print)
        print(table_of(rows))
    else:
        record = run_plasticity(arguments, say=print)
        folder = record.folder
        print("\n".join(conclusion(record)))
        print(f"page: {folder / 'dashboards' / 'dashboard.html'}")
    print(f"run: {folder}")


if __name__ == "__main__":
    cli.run(RunArguments, main, default=cli.quick_defaults(RunArguments(), QUICK))
