"""Controllers beside searches that read as much text.

On one board a search reads the calibration blocks (signals, repair) and the reward blocks (the loss that it minimises), a
controller the calibration blocks alone. Where a board has as many calibration blocks as both of another one's, the
controllers of the first and the searches of the second read equally much, and their test blocks are the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from plasticity_env.agents.leaderboard.board_cells import Board, Cell, titles
from plasticity_env.agents.leaderboard.players import read_player
from plasticity_env.agents.leaderboard.report.labels import kind, label
from plasticity_env.agents.leaderboard.statistics import Results, estimate, is_single_score
from plasticity_env.common.errors import InputError

READ_REWARD = ("greedy", "swap_search")  # of the searches, those that read the reward blocks


def pairs(cells: Iterable[Cell]) -> list[tuple[Board, Results]]:
    """Results of every pair of boards of which one has as many calibration blocks as the other reads in all.

    Returns:
        The controllers' board, and the results of its controllers and of the other's searches; pairs that have not both are
        left out.
    """
    found: dict[Board, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.board, []).append(cell)
    results = []
    for board, own in found.items():
        larger = replace(board, calibration_blocks=board.calibration_blocks + board.reward_blocks)
        searches = [cell for cell in own if _reads_reward(cell.player)]
        others = [replace(cell, board=board) for cell in found.get(larger, ()) if kind(cell.player) != "search"]
        if not searches or not others:
            continue
        try:
            both = Results([*searches, *others])
        except InputError:
            continue  # no player has all that the others have
        if both.has_areas and len({_reads_reward(name) for name in both.players}) == 2:
            results.append((larger, both))
    return results


def section(cells: Iterable[Cell]) -> list[str]:
    """Markdown of all pairs: areas of learned controllers and of the best rule over each search's, and rises at each share
    over those of the search of least area.

    Args:
        cells: Cells of any boards.
    """
    cells, parts = list(cells), []
    named = titles(cell.board for cell in cells)
    for board, results in pairs(cells):
        searches = [name for name in results.players if _reads_reward(name)]
        order = sorted(results.players, key=lambda name: float(results.areas[0, results.index(name)]))
        shown = [name for name in order if not is_single_score(name) or name == results.best_rule()]
        lines = ["| player | area, nats | " + " | ".join(f"area / {label(name)}" for name in searches) + " |"]
        lines.append("|---|" + "---:|" * (1 + len(searches)))
        for name in shown:
            ratios = " | ".join(str(results.area_ratio(name, [search])) for search in searches)
            lines.append(f"| {label(name)} | {results.areas[0, results.index(name)]:.4f} | {ratios} |")
        read = board.calibration_blocks
        parts += [
            f"### At equal text: {named[board]}",
            f"{len(results.seeds)} draws; controllers score and repair with {read} blocks, searches score and repair with "
            f"{read - board.reward_blocks} and minimise the loss on {board.reward_blocks} more. Of the rules the best one.",
            "\n".join(lines),
            _by_share(results, shown, next(name for name in order if name in searches)),
        ]
    return parts


def _by_share(results: Results, shown: list[str], search: str) -> str:
    """Rise of the loss over a search's at each share, mean over seeds."""
    means = results.means.mean(3)  # (R, P, S)
    unit = means[:, results.index(search)]
    lines = [f"| rise / {label(search)} | " + " | ".join(f"{share:.0%}" for share in results.shares) + " |"]
    lines.append("|---|" + "---:|" * len(results.shares))
    for name in shown:
        ratios = means[:, results.index(name)] / unit
        lines.append(f"| {label(name)} | " + " | ".join(str(estimate(column)) for column in ratios.T) + " |")
    return "\n".join(lines)


def _reads_reward(player: str) -> bool:
    return read_player(player).name in READ_REWARD
