"""The leaderboard's page: intervals over all boards, then each board's frontier, areas, ranks, table and maps of heads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plasticity_env.agents.leaderboard.aggregate import Aggregate
from plasticity_env.agents.leaderboard.board_cells import titles
from plasticity_env.agents.leaderboard.report.board_figures import KIND_COLOURS, colours, frontier, head_map, intervals
from plasticity_env.agents.leaderboard.report.board_maps import by_round, by_share
from plasticity_env.agents.leaderboard.report.board_tables import order_of
from plasticity_env.agents.leaderboard.report.labels import kind, label
from plasticity_env.agents.leaderboard.statistics import Results
from plasticity_env.plots.html import Cell, Figures, Plot, write_page


def write_leaderboard(path: Path, boards: Sequence[Results], aggregates: dict[str, Aggregate], command: str) -> None:
    """Write the page of the leaderboard.

    Args:
        path: The HTML file.
        boards: Results of each.
        aggregates: Aggregates over several boards, by what these have in common.
        command: Command line that made the cells.
    """
    figures = Figures()
    scores = [_overall(name, found, figures) for name, found in aggregates.items()]
    named = titles(results.board for results in boards)
    parts = [_board(named[results.board], index, results, figures) for index, results in enumerate(boards)]
    write_page(
        path,
        "plasticity_env.agents.leaderboard.report",
        "board.html",
        title="Leaderboard: perplexity kept per FLOP",
        data={"figures": figures, "maps": [_maps(results) for results in boards]},
        aggregates=scores,
        boards=parts,
        command=command,
    )


def _overall(name: str, found: Aggregate, figures: Figures) -> dict[str, Any]:
    """What one figure a player over several boards needs."""
    order = sorted(found.players, key=lambda player: found.score(player).value)
    ranks = {player: found.rank(player) for player in order}
    return {
        "name": f"Scores: {name}",
        "reference": found.reference,
        "count": len(found.scores),
        "note": found.note,
        "kinds": _kinds(order),
        "plots": [
            figures.add(intervals({n: found.score(n) for n in order}, "IQM of scores", (1.0,)), "Interquartile mean"),
            figures.add(intervals(ranks, "rank", whole=True), "Rank by it"),
        ],
    }


def _kinds(players: Sequence[str]) -> list[tuple[str, str, str]]:
    """Entries of the legend of kinds."""
    return [("dot", KIND_COLOURS[one][4:], one) for one in dict.fromkeys(map(kind, players))]


def _board(name: str, index: int, results: Results, figures: Figures) -> dict[str, Any]:
    """What the part of one board needs."""
    board, order, best = results.board, order_of(results), results.best_rule()
    dense = math.exp(min(float(results.dense.mean()), 700.0))
    drawn, chosen = frontier(results, order), colours(order)
    low, high = results.interval if results.has_areas else (0.0, 0.0)
    cells = [cell for lines in results.cells for line in lines for cell in line]
    shape, rounds = (len(cells[0].kept), len(cells[0].kept[0])), max(len(cell.rounds) for cell in cells)
    shares = head_map(shape, results.shares[0], results.shares[-1], "share")
    return {
        "name": name,
        "index": index,
        "facts": [
            ("dense test perplexity", f"{dense:.2f}"),
            ("test text", f"{board.test_blocks} x {board.max_length} tokens"),
            ("calibration text", f"{board.read_blocks} x {board.max_length} tokens, {len(results.seeds)} draws"),
            ("players", str(len(order))),
            *([("best single-score rule", best)] if best else []),
            ("played on", ", ".join(sorted({cell.machine for cell in cells}))),
        ],
        "missing": ", ".join(map(label, results.missing)),
        "frontier": figures.add(drawn, "Frontier (mean ± standard deviation over draws)"),
        "chips": [
            {
                "label": label(player),
                "shown": bool(trace["visible"]),
                "colour": chosen[player][4:],
                "dash": "dashed" if kind(player) == "search" else "dotted" if player.endswith("@1") else "solid",
            }
            for player, trace in zip(order, drawn[0], strict=False)  # the dense model's trace comes last
        ],
        "areas": _areas(results, order, best, figures) if results.has_areas else [],
        "low": f"{low:.1%}",
        "high": f"{high:.1%}",
        "kinds": _kinds(order),
        "columns": ["player", *(f"{share:.0%}" for share in results.shares), "evaluations"],
        "rows": _rows(results, order),
        "players": [(player, label(player)) for player in order],
        "shares": [(f"{share:g}", f"{share:.0%}") for share in reversed(results.shares)],
        "maps": [
            figures.add(shares, "From which share on a head is gone"),
            figures.add(head_map(shape, 1, max(2, rounds), "round"), "In which round it goes for good"),
        ],
    }


def _areas(results: Results, order: list[str], best: str | None, figures: Figures) -> list[Plot]:
    if best:
        ratios = {name: results.area_ratio(name, results.rules) for name in order}
        drawn, heading = intervals(ratios, f"area over that of {best}", (0.75, 1.0)), "Area, over the best rule's"
    else:
        drawn, heading = intervals({name: results.area(name) for name in order}, "area, nats per token"), "Area"
    ranks = intervals({name: results.rank(name) for name in order}, "rank", whole=True)
    return [figures.add(drawn, heading), figures.add(ranks, "Rank by area")]


def _rows(results: Results, order: list[str]) -> list[list[Cell]]:
    """A row a player: test perplexity at each share, and evaluations."""
    least = {share: min(results.perplexities(name, share).mean() for name in order) for share in results.shares}
    rows = []
    for name in order:
        row = [Cell(label(name), name)]
        for share in results.shares:
            values = results.perplexities(name, share)
            mean = float(values.mean())
            spread = f"± {values.std(ddof=1):.2f}" if len(values) > 1 else ""
            row.append(Cell(f"{mean:.2f}", f"{mean:.6g}", "best" if mean <= least[share] else "", spread))
        own = [cell for line in results.cells[results.index(name)] for cell in line]
        cost = sum(cell.evaluations for cell in own) / len(own)
        rows.append([*row, Cell(f"{cost:.0f}", f"{cost:.6g}")])
    return rows


def _maps(results: Results) -> dict[str, Any]:
    """The maps of when heads are pruned, for each player."""
    return {
        name: {
            "share": by_share(results, name),
            "rounds": {f"{share:g}": by_round(results, name, share) for share in results.shares},
        }
        for name in order_of(results)
    }
