"""The leaderboard as text: perplexity by share, and areas beside the best rule's."""

from __future__ import annotations

import math
from collections.abc import Iterable

from agents.leaderboard.cells import Board, Cell
from agents.leaderboard.statistics import Results, is_own_rule
from plasticity_env.cells import spread
from plasticity_env.errors import InputError


def boards(cells: Iterable[Cell]) -> dict[Board, list[Cell]]:
    """Cells by board, in order of first appearance."""
    found: dict[Board, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.board, []).append(cell)
    return found


def markdown(results: Results) -> str:
    """A row for each player, least area first: perplexity (mean ± spread over seeds) at each share, area, ratio, cost."""
    heads = ["player", *(f"{share:.0%}" for share in results.shares)]
    areas = len(results.shares) > 1
    best, own = results.best_rule(), [name for name in results.players if is_own_rule(name)]
    if areas:
        heads += ["area, nats", f"ratio to {best}" if best else "", "ratio to residual_*" if own else "", "rank"]
        heads = [head for head in heads if head]
    heads += ["evaluations", "FLOPs kept"]
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    order = sorted(results.players, key=lambda name: float(results.areas[0, results.index(name)])) if areas else []
    for name in order or results.players:
        row = [name, *(spread(list(results.perplexities(name, share)), ".2f", ".2f") for share in results.shares)]
        if areas:
            row.append(f"{results.area(name).value:.4f}")
            row += [str(results.area_ratio(name, results.rules))] if best else []
            row += [str(results.area_ratio(name, own))] if own else []
            rank = results.rank(name)
            row.append(f"{rank.value:.0f} [{rank.low:.0f}, {rank.high:.0f}]")
        cells = [cell for line in results.cells[results.index(name)] for cell in line]
        row.append(f"{sum(cell.evaluations for cell in cells) / len(cells):.0f}")
        kept = [cell.flops_kept for cell in cells]
        row.append(f"{max(kept):.3f}-{min(kept):.3f}")
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def report(cells: Iterable[Cell]) -> str:
    """The table of every board, with a line about what it holds.

    Args:
        cells: All of a board should be of the same shares and seeds: players that lack some are named, not shown.
    """
    parts = []
    for board, own in boards(cells).items():
        try:
            results = Results(own)
        except InputError as error:
            parts.append(f"{board.title}: {error}")
            continue
        dense = float(results.dense.mean())
        lines = [
            f"{board.title}: test perplexity (dense {math.exp(min(dense, 700.0)):.2f}) on {board.test_blocks} blocks of "
            f"{board.max_length} tokens, {board.calibration_blocks} calibration blocks, {len(results.seeds)} seeds",
        ]
        if results.missing:
            lines.append(f"not all cells played yet: {', '.join(results.missing)}")
        parts.append("\n".join([*lines, "", markdown(results)]))
    return "\n\n".join(parts)
