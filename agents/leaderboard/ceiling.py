"""How much another mask could save: a long swap search that starts at a player's mask, on text it may read and on the test text.

    python -m agents.leaderboard.ceiling --player crossfit_stepwise@4 --units heads+mlp --shares 0.2 --test_blocks 128

What a search gains on the text that it reads, and keeps on text that it does not, a better controller could gain as well. What
it gains on the test text alone, no controller that must not read it can know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from agents.leaderboard.cells import Cell, played
from agents.leaderboard.playing import Rules, Table
from controllers.searches import SwapSearch
from controllers.trials import Bill, Trials
from plasticity_env import cli
from plasticity_env.cells import spread
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
            self._read[key] = float(np.mean(self._table.losses_of(active, self._seed, self._ids)))
        return self._read[key]

    def knows(self, active: Tensor) -> bool:
        return active.numpy().tobytes() in self._read


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
    asked = f"{config.player!r} on {table.board.title!r}"
    cells = [c for c in played(config.output, [table.board], [config.player], config.seeds, asked) if c.share in shares]
    if not cells:
        raise InputError(f"no cells of {asked} have a share of {config.shares}: play them first")
    reward, wanted = table.workbench.text.blocks("reward"), len(table.tested[::2])
    if len(reward) < wanted:
        raise InputError(
            f"half of {config.test_blocks} test blocks is more than the {len(reward)} reward blocks: ask for fewer"
        )
    texts = (some_blocks(reward, wanted, spread=True), table.tested[::2], table.tested[1::2])
    rises: dict[str, list[np.ndarray]] = {}
    with Progress("searching", len(cells) * len(SEARCHED)) as progress:
        for done, cell in enumerate(cells):
            start = torch.tensor(cell.kept, dtype=torch.bool)
            masks = {config.player: start}
            for name, ids in zip(SEARCHED, texts, strict=False):
                search = SwapSearch(seed=cell.seed)
                masks[f"search on {name}"] = search.climb(OnText(table, cell, ids), start, config.evaluations)
                progress.update(done * len(SEARCHED) + len(masks) - 1)
            dense = _means(table, cell, torch.ones_like(start), texts)
            for name, mask in masks.items():
                rises.setdefault(name, []).append(_means(table, cell, mask, texts) - dense)
    lines = ["| mask | " + " | ".join(TEXTS) + " | cells |", "|---|" + "---:|" * (len(TEXTS) + 1)]
    for name, rows in rises.items():
        lines.append(f"| {name} | {' | '.join(spread(column.tolist()) for column in np.array(rows).T)} | {len(rows)} |")
    return "\n".join(lines)


def _means(table: Table, cell: Cell, mask: Tensor, texts: Sequence[Tensor]) -> np.ndarray:
    """(texts,) loss of a mask, repaired as the cell's, on each text, nats per token."""
    return np.array([np.mean(table.losses_of(mask, cell.seed, ids)) for ids in texts])


def main(config: CeilingConfig) -> None:
    """Print the table."""
    print(ceiling(config))


if __name__ == "__main__":
    cli.run(CeilingConfig, main)
