"""Make a W&B sweep from its file and run some of its trainings: `wandb sweep` and `wandb agent` in one.

python scripts/sweep.py --file scripts/configs/sweep.yaml --count 10
"""

from __future__ import annotations

from plasticity_env.agents.sweeping import SweepConfig, sweep
from plasticity_env.common import cli


def main(config: SweepConfig) -> None:
    """Make a W&B sweep (or join one with --sweep_id) and run trainings of it on this machine."""
    name = sweep(config)
    print(f"sweep: {name}; join it elsewhere with python scripts/sweep.py --sweep_id {name}")


if __name__ == "__main__":
    cli.run(SweepConfig, main)
