"""How much another mask could save: a long swap search that starts at a player's mask, on text it may read and on the test text.

    python -m agents.leaderboard.ceiling --player crossfit_stepwise@4 --units heads+mlp --shares 0.2 --test_blocks 128

What a search gains on the text that it reads, and keeps on text that it does not, a better controller could gain as well. What
it gains on the test text alone, no controller that must not read it can know.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from agents.leaderboard.cells import Cell, cell_file
from agents.leaderboard.playing import Rules, Table, block_losses
from controllers.searches import SwapSearch
from controllers.trials import Bill, Trials
from plasticity_env import cli
from plasticity_env.errors import InputError
from plasticity_env.progress import Progress
from plasticity_env.text import some_blocks

TEXTS = ("reward split", "first half of the test", "second half of the test")  # halves: every other block
SEARCHED = TEXTS[:2]


@dataclass(frozen=True)
class CeilingConfig:
    """Arguments of a study."""

    output: Path = Path("docs/leaderboard/cells.jsonl")
    """finished cells, as scripts/leaderboard.py writes them; nothing is added to them"""
    model_name: str = "bard-neox-5x6"
    """whose cells, Shakespeare, least-squares repair"""
    units: str = "heads"
    """heads or heads+mlp"""
    player: str = "ann@4"
    """whose masks the searches start at"""
    shares: str = "0.3"
    """of the units pruned, separated by commas"""
    seeds: int = 3
    """draws"""
    evaluations: int = 600
    """of each search"""
    calibration_blocks: int = 16
    """of the board, and of the repair"""
    test_blocks: int = 256
    """of the board; a search of the test text reads every other one, one of the reward split as many"""
    batch_size: int = 16
    """sequences in one pass"""
    device: str = "cpu"
    """cpu, cuda, cuda:0, ..."""


class OnText(Trials):
    """Trials whose loss is that on some blocks of text, whatever the episode's reward blocks are.

    Args:
        table: The model; its share and draw are those of the cell.
        cell: Where the episode stands.
        ids: (B, T) tokens.
    """

    def __init__(self, table: Table, cell: Cell, ids: Tensor) -> None:
        env = table.env(1)
        env.reset(seed=cell.seed, options=table.options(cell.share, cell.seed))
        super().__init__(env, None, Bill())
        self._table, self._seed, self._ids = table, cell.seed, ids
        self._read: dict[bytes, float] = {}

    def loss(self, active: Tensor) -> float:
        key = active.numpy().tobytes()
        if key not in self._read:
            self._read[key] = self.mean(active, self._ids)
        return self._read[key]

    def knows(self, active: Tensor) -> bool:
        return active.numpy().tobytes() in self._read

    def mean(self, active: Tensor, ids: Tensor) -> float:
        """Loss of a mask, repaired with the cell's calibration blocks, on (B, T) tokens, nats per token."""
        bench, table = self._table.workbench, self._table
        bench.install(active, tuple(table.blocks(self._seed)["calibration"]))
        return float(np.mean(block_losses(bench.model, ids, table.rules.batch_size)))


def ceiling(config: CeilingConfig) -> str:
    """Search from every cell's mask, on either text.

    Returns:
        A Markdown table: rise of the loss on each text, nats per token: mean and deviation over shares and draws.

    Raises:
        InputError: There are no such cells, or fewer blocks of text than asked for.
    """
    shares = cli.numbers(config.shares, "shares")
    rules = Rules(
        config.model_name,
        calibration_blocks=config.calibration_blocks,
        test_blocks=config.test_blocks,
        units=config.units,
        batch_size=config.batch_size,
        device=config.device,
    )
    table = Table(rules)
    cells = [
        c
        for c in cell_file(config.output).read()
        if c.board == table.board and c.player == config.player and c.share in shares and c.seed < config.seeds
    ]
    if not cells:
        raise InputError(
            f"{str(config.output)!r} holds no cells of {config.player!r} on {table.board.title!r} at {config.shares}: "
            "play them first"
        )
    text = table.workbench.text
    tested = some_blocks(text.blocks("test"), config.test_blocks, spread=True)
    wanted, there = len(tested[::2]), len(text.blocks("reward"))
    if there < wanted:
        raise InputError(
            f"half of {config.test_blocks} test blocks is more than the {there} reward blocks: ask for fewer"
        )
    paid = some_blocks(text.blocks("reward"), wanted, spread=True)
    texts = (paid, tested[::2], tested[1::2])
    rises: dict[str, list[list[float]]] = {}
    with Progress("searching", len(cells) * len(SEARCHED)) as progress:
        for done, cell in enumerate(cells):
            start = torch.tensor(cell.kept, dtype=torch.bool)
            masks = {config.player: start}
            for name, ids in zip(SEARCHED, texts, strict=False):
                search = SwapSearch(seed=cell.seed)
                masks[f"search on {name}"] = search.climb(OnText(table, cell, ids), start, config.evaluations)
                progress.update(done * len(SEARCHED) + len(masks) - 1)
            trials = OnText(table, cell, texts[0])
            dense = [trials.mean(torch.ones_like(start), ids) for ids in texts]
            for name, mask in masks.items():
                losses = [trials.mean(mask, ids) for ids in texts]
                rises.setdefault(name, []).append([loss - whole for loss, whole in zip(losses, dense, strict=True)])
    lines = ["| mask | " + " | ".join(TEXTS) + " | cells |", "|---|" + "---:|" * (len(TEXTS) + 1)]
    for name, rows in rises.items():
        spreads = zip(np.mean(rows, 0), np.std(rows, 0, ddof=1) if len(rows) > 1 else [0.0] * len(TEXTS), strict=True)
        means = " | ".join(f"{mean:.4f} ± {deviation:.4f}" for mean, deviation in spreads)
        lines.append(f"| {name} | {means} | {len(rows)} |")
    return "\n".join(lines)


def main(config: CeilingConfig) -> None:
    """Print the table."""
    print(ceiling(config))


if __name__ == "__main__":
    cli.run(CeilingConfig, main)
