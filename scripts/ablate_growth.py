"""Ablation of growth: strategies x initial weights x skips against no growth and revival, at equal training.

python scripts/ablate_growth.py --models bard-gpt2-4x4,bard-gpt2-6x8 --seeds 3
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from plasticity_env import cli
from plasticity_env.errors import InputError
from plasticity_env.growth.ablation import Setting, find_arms, run_ablation, table


@dataclass(frozen=True)
class Config:
    """Arguments."""

    models: str = "bard-gpt2-4x4,bard-gpt2-6x8"
    """models, separated by commas"""
    seeds: int = 3
    """runs of each arm"""
    arms: str = ""
    """only arms whose name contains one of these words, separated by commas; unset: all"""
    setting: Setting = field(default_factory=Setting)
    """what all cells share"""
    output: Path = Path("runs/ablate_growth/cells.jsonl")
    """finished cells, one JSON line each; a second run goes on where the first was cut"""


def main(config: Config) -> None:
    """Run the cells that are missing and print the tables."""
    if not cli.words(config.models):
        raise InputError("--models is empty: give at least one")
    print(cli.machine(), file=sys.stderr)
    cells = []
    arms = find_arms(cli.words(config.arms))
    for cell, known in run_ablation(cli.words(config.models), config.seeds, config.setting, config.output, arms):
        cells.append(cell)
        if not known:
            print(f"{cell.model}  seed {cell.seed}  {cell.arm}: {cell.final_loss:.4f}", file=sys.stderr, flush=True)
    print(table(cells))


if __name__ == "__main__":
    cli.run(Config, main)
