"""Masks of finished cells under another repair text: what of a lead is the choice, and what the repair.

    python -m agents.leaderboard.rescore --players ann@4,greedy@4 --seeds 9

A controller that scores with more calibration blocks also repairs with more. Here every mask of a board with B or 2 B blocks
is repaired with either number of blocks of the same draws and scored on the same test text.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from agents.leaderboard.cells import Cell, played
from agents.leaderboard.playing import Rules, Table
from plasticity_env import cli
from plasticity_env.progress import Progress


@dataclass(frozen=True)
class RescoreConfig:
    """Arguments of a comparison."""

    output: Path = Path("docs/leaderboard/cells.jsonl")
    """finished cells, as scripts/leaderboard.py writes them; nothing is added to them"""
    model_name: str = "bard-neox-5x6"
    """whose cells, Shakespeare, heads, least-squares repair"""
    players: str = "ann@4,greedy@4,swap_search:50@4"
    """whose, separated by commas"""
    calibration_blocks: str = "16,32"
    """of the boards, and of the repairs"""
    seeds: int = 9
    """draws"""
    test_blocks: int = 256
    """of the boards"""
    batch_size: int = 16
    """sequences in one pass"""
    device: str = "cpu"
    """cpu, cuda, cuda:0, ..."""


def rescore(config: RescoreConfig) -> str:
    """Repair and score every mask with every number of blocks.

    Returns:
        A Markdown table: mean rise of the loss over shares and draws, nats per token.

    Raises:
        InputError: There are no such cells.
    """
    counts = [int(count) for count in cli.numbers(config.calibration_blocks, "calibration_blocks")]
    rules = Rules(config.model_name, test_blocks=config.test_blocks, batch_size=config.batch_size, device=config.device)
    tables = {count: Table(replace(rules, calibration_blocks=count)) for count in counts}
    boards = {table.board: count for count, table in tables.items()}
    wanted = cli.words(config.players)
    cells = played(config.output, boards, wanted, config.seeds, f"{config.players!r} on {config.model_name!r}")
    lines = ["| player | chosen with | " + " | ".join(f"repaired with {count}" for count in counts) + " | cells |"]
    lines.append("|---|---:|" + "---:|" * (len(counts) + 1))
    with Progress("repairing", len(cells) * (len(counts) - 1)) as progress:
        done, rises = 0, dict[tuple[str, int], list[list[float]]]()
        for cell in cells:
            own = boards[cell.board]
            row = [float(cell.deltas.mean()) if count == own else _rise(tables[count], cell) for count in counts]
            rises.setdefault((cell.player, own), []).append(row)
            done += len(counts) - 1
            progress.update(done)
    for (player, own), rows in sorted(rises.items()):
        means = " | ".join(f"{value:.4f}" for value in np.mean(rows, 0))
        lines.append(f"| {player} | {own} | {means} | {len(rows)} |")
    return "\n".join(lines)


def _rise(table: Table, cell: Cell) -> float:
    """Rise of the loss of a cell's mask, repaired with a table's blocks of the same draw, nats per token."""
    mask = torch.tensor(cell.kept, dtype=torch.bool)
    return float(np.mean(np.array(table.losses_of(mask, cell.seed)) - np.array(cell.dense_losses)))


def main(config: RescoreConfig) -> None:
    """Print the table."""
    print(rescore(config))


if __name__ == "__main__":
    cli.run(RescoreConfig, main)
