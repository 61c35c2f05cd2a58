"""What one step costs on a large model, what travels, and what training a controller there takes: arithmetic, nothing is run.

python scripts/large_model_costs.py --devices 16
"""

from __future__ import annotations

from plasticity_env.agents.benchmarks.large_models import LargeModelConfig, table
from plasticity_env.common import cli


def main(config: LargeModelConfig) -> None:
    """Print the table."""
    print("\n".join(table(config)))


if __name__ == "__main__":
    cli.run(LargeModelConfig, main)
