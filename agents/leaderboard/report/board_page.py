"""The leaderboard's page: intervals over all boards, then each board's frontier, areas, ranks, table and maps of heads."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plasticity_env.agents.leaderboard.aggregate import Aggregate
from plasticity_env.agents.leaderboard.board_cells import titles
from plasticity_env.agents.leaderboard.report import board_style as page_style
from plasticity_env.agents.leaderboard.report.board_figures import KIND_COLOURS, colours, frontier, head_map, intervals
from plasticity_env.agents.leaderboard.report.board_maps import by_round, by_share
from plasticity_env.agents.leaderboard.report.board_tables import order_of
from plasticity_env.agents.leaderboard.report.labels import kind, label
from plasticity_env.agents.leaderboard.statistics import Results
from plasticity_env.plots.html import Figures, facts, grid, plot, write_page

NO_AREA = '<p class="missing">areas need at least two shares that all players cover</p>'


def write_leaderboard(path: Path, boards: Sequence[Results], aggregates: dict[str, Aggregate], command: str) -> None:
    """Write the page.

    Args:
        path: The HTML file.
        boards: Results of each.
        aggregates: Over several boards, by what they have in common.
        command: That made the cells.
    """
    figures: Figures = {}
    maps: list[dict[str, Any]] = []
    parts = [(f"Scores: {name}", _overall(found, figures)) for name, found in aggregates.items()]
    named = titles(results.board for results in boards)
    for results in boards:
        parts.append((named[results.board], _board(results, figures, maps)))
    links = "".join(f'<a href="#part-{index}">{html.escape(name)}</a>' for index, (name, _) in enumerate(parts))
    body = "\n".join(
        f'<section id="part-{index}"><h2>{html.escape(name)}</h2>\n{content}</section>'
        for index, (name, content) in enumerate(parts)
    )
    note = (
        "Every player prunes the same share of the same model, in one or four rounds of measure, prune and repair; the "
        "test text decides nothing. Intervals: 95%, bootstrap."
    )
    made = f'<p class="note">Made by <code>{html.escape(command)}</code></p>'
    write_page(
        path,
        "Leaderboard: perplexity kept per FLOP",
        f'<p class="note">{note}</p><nav>{links}</nav>\n{body}\n{made}',
        {"figures": figures, "frames": [], "maps": maps},
        style=page_style.STYLE,
        script=page_style.SCRIPT,
    )


def _overall(found: Aggregate, figures: Figures) -> str:
    order = sorted(found.players, key=lambda name: found.score(name).value)
    note = (
        f"Score of a cell: its rise of the loss over that of {found.reference} in the same cell (1 = as good, lower is "
        f"better). Interquartile mean over {len(found.scores)} shares and boards, stratified bootstrap over calibration seeds."
    )
    cards = [
        plot(figures, *intervals({n: found.score(n) for n in order}, "IQM of scores", (1.0,)), "Interquartile mean"),
        plot(figures, *intervals({n: found.rank(n) for n in order}, "rank", whole=True), "Rank by it"),
    ]
    left = f'<p class="note">{html.escape(found.note)}</p>' if found.note else ""
    return f'<p class="note">{note}</p>{_kinds(order)}{grid(cards, "24rem")}{left}'


def _kinds(players: Sequence[str]) -> str:
    there = dict.fromkeys(kind(name) for name in players)
    items = (f'<li><i style="--of: var(--{KIND_COLOURS[one][4:]})"></i>{one}</li>' for one in there)
    return f'<ul class="legend">{"".join(items)}</ul>'


def _board(results: Results, figures: Figures, maps: list[dict[str, Any]]) -> str:
    board, order = results.board, order_of(results)
    dense, best = math.exp(min(float(results.dense.mean()), 700.0)), results.best_rule()
    cells = [cell for lines in results.cells for line in lines for cell in line]
    told = facts(
        [
            ("dense test perplexity", f"{dense:.2f}"),
            ("test text", f"{board.test_blocks} x {board.max_length} tokens"),
            ("calibration text", f"{board.calibration_blocks} x {board.max_length} tokens, {len(results.seeds)} draws"),
            ("players", str(len(order))),
            *([("best single-score rule", best)] if best else []),
            ("played on", ", ".join(sorted({cell.machine for cell in cells}))),
        ]
    )
    missing = ", ".join(map(label, results.missing))
    lack = f'<p class="note">Not all cells are played yet: {html.escape(missing)}.</p>' if missing else ""
    return f"{told}{lack}{_frontier(results, order, figures)}{_areas(results, order, best, figures)}" + (
        f"{_table(results, order)}{_heads(results, order, figures, maps)}"
    )


def _frontier(results: Results, order: list[str], figures: Figures) -> str:
    name, drawn, chosen = f"figure-{len(figures)}", frontier(results, order), colours(order)
    chips = []
    for index, player in enumerate(order):
        shown = str(bool(drawn[0][index]["visible"])).lower()
        dash = "dashed" if kind(player) == "search" else "dotted" if player.endswith("@1") else "solid"
        look = f"--of: var(--{chosen[player][4:]}); --dash: {dash}"
        chips.append(
            f'<li><button type="button" data-figure="{name}" data-trace="{index}" aria-pressed="{shown}" '
            f'style="{look}">{html.escape(label(player))}</button></li>'
        )
    return '<div style="margin-top: 0.9rem"></div>' + plot(
        figures, *drawn, "Frontier (mean ± standard deviation over draws)", f'<ul class="chips">{"".join(chips)}</ul>'
    )


def _areas(results: Results, order: list[str], best: str | None, figures: Figures) -> str:
    if not results.has_areas:
        return NO_AREA
    low, high = results.interval
    ranks = plot(figures, *intervals({n: results.rank(n) for n in order}, "rank", whole=True), "Rank by area")
    if best:
        found = {name: results.area_ratio(name, results.rules) for name in order}
        first = plot(figures, *intervals(found, f"area over that of {best}", (0.75, 1.0)), "Area, over the best rule's")
    else:
        found = {name: results.area(name) for name in order}
        first = plot(figures, *intervals(found, "area, nats per token"), "Area")
    note = (
        f"Area: mean rise of the loss between {low:.1%} and {high:.1%} of the FLOPs; paired bootstrap over test blocks."
    )
    return f'<p class="note" style="margin-top: 0.9rem">{note}</p>{_kinds(order)}{grid([first, ranks], "24rem")}'


def _table(results: Results, order: list[str]) -> str:
    heads = ["player", *(f"{share:.0%}" for share in results.shares), "evaluations"]
    least = {share: min(results.perplexities(n, share).mean() for n in order) for share in results.shares}
    rows = []
    for name in order:
        cells = []
        for share in results.shares:
            values = results.perplexities(name, share)
            mean = float(values.mean())
            spread = f"<small>± {values.std(ddof=1):.2f}</small>" if len(values) > 1 else ""
            mark = ' class="best"' if mean <= least[share] else ""
            cells.append(f'<td data-value="{mean:.6g}"{mark}>{mean:.2f}{spread}</td>')
        own = [cell for line in results.cells[results.index(name)] for cell in line]
        cost = sum(cell.evaluations for cell in own) / len(own)
        cells.append(f'<td data-value="{cost:.6g}">{cost:.0f}</td>')
        rows.append(f'<tr><th data-value="{html.escape(name)}">{html.escape(label(name))}</th>{"".join(cells)}</tr>')
    top = "".join(f"<th><button>{html.escape(head)}</button></th>" for head in heads)
    return (
        '<div style="margin-top: 0.9rem"></div><div class="card"><h3>Test perplexity after pruning a share of the units</h3>'
        f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{"".join(rows)}</tbody></table></div></div>'
    )


def _heads(results: Results, order: list[str], figures: Figures, maps: list[dict[str, Any]]) -> str:
    shape = (len(results.cells[0][0][0].kept), len(results.cells[0][0][0].kept[0]))
    first = f"figure-{len(figures)}"
    rounds = max(len(cell.rounds) for lines in results.cells for line in lines for cell in line)
    cards = [
        plot(
            figures,
            *head_map(shape, results.shares[0], results.shares[-1], "share"),
            "From which share on a head is gone",
        )
    ]
    second = f"figure-{len(figures)}"
    cards.append(plot(figures, *head_map(shape, 1, max(2, rounds), "round"), "In which round it goes for good"))
    held = {
        name: {
            "share": by_share(results, name),
            "rounds": {f"{share:g}": by_round(results, name, share) for share in results.shares},
        }
        for name in order
    }
    maps.append(held)
    names = "".join(f'<option value="{html.escape(n)}">{html.escape(label(n))}</option>' for n in order)
    shares = "".join(f'<option value="{share:g}">{share:.0%}</option>' for share in reversed(results.shares))
    return (
        '<h3 style="margin-top: 1.4rem">Which heads go when</h3>'
        f'<div class="choices" data-board="{len(maps) - 1}" data-shares="{first}" data-rounds="{second}">'
        f"<label>player <select>{names}</select></label><label>rounds at <select>{shares}</select></label></div>"
        f'{grid(cards, "21rem")}<p class="note">Mean over draws; blank stays.</p>'
    )
