"""Compare controllers on text that none of them saw: perplexity against FLOPs.

python scripts/evaluate_controllers.py --model_name bard-llama-6x8 --controllers random,fisher,plasticity --seeds 3
"""

from __future__ import annotations

from plasticity_env.agents.evaluation.comparison import CompareConfig, compare
from plasticity_env.common import cli


def main(config: CompareConfig) -> None:
    """Play controllers at several sparsities and score the pruned models on the test split."""
    folder = compare(config)
    print(f"results: {folder / 'results.json'}\nfrontier: {folder / 'frontier.png'}")


if __name__ == "__main__":
    cli.run(CompareConfig, main)
