"""``plasticity evaluate``: compare controllers on text that none of them saw."""

from __future__ import annotations

from plasticity_env.agents.commands.command import Command
from plasticity_env.agents.evaluation.compare_config import CompareConfig


def main(config: CompareConfig) -> None:
    """Play controllers at several sparsities and score the pruned models on the test split."""
    from plasticity_env.agents.evaluation.comparison import compare

    folder = compare(config)
    print(f"results: {folder / 'results.json'}\nfrontier: {folder / 'frontier.png'}")


COMMAND = Command("evaluate", CompareConfig, main)
