"""The plasticity cycle stage by stage: perplexity before and after each phase, active heads, improvement over cycles.

python scripts/neural_plasticity_cycle.py --model_name bard-gpt2-4x4 --dataset tiny_shakespeare --pruning_strategy fisher \\
    --growth_strategy gradient_sensitivity --cycles 3 --initial_pruning 0.3 --growth_ratio 0.5 --new_head_lr_multiplier 5
"""

from __future__ import annotations

from plasticity_env.agents.cycle_cli.plasticity_run import QUICK
from plasticity_env.agents.cycle_cli.stage_run import StageArguments, run_stages
from plasticity_env.common import cli
from plasticity_env.cycle.stages import cycle_rows, cycle_table, head_maps, stage_rows, stage_table


def main(arguments: StageArguments) -> None:
    """Run the plasticity cycle and tell it stage by stage, in tables and pictures, beside a control arm."""
    record = run_stages(arguments, say=print)
    print(f"\n{stage_table(stage_rows(record))}\n{head_maps(record)}")
    if len(cycles := cycle_rows(record)) > 1:
        print(cycle_table(cycles))
    print(f"pictures: {record.folder / 'visualizations'}")
    print(f"page: {record.folder / 'dashboards' / 'dashboard.html'}")
    print(f"run: {record.folder}")


if __name__ == "__main__":
    cli.run(StageArguments, main, default=cli.quick_defaults(StageArguments(), QUICK))
