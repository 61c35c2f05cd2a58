"""The leaderboard as Markdown: perplexity by share, areas beside the best rule's, and one figure over all boards."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from plasticity_env.agents.leaderboard.aggregate import REFERENCE, Aggregate
from plasticity_env.agents.leaderboard.board_cells import Board, Cell, titles
from plasticity_env.agents.leaderboard.report.equal_text import section
from plasticity_env.agents.leaderboard.report.labels import label
from plasticity_env.agents.leaderboard.statistics import Results, is_own_rule
from plasticity_env.common.errors import InputError
from plasticity_env.common.files import write_text
from plasticity_env.common.jsonl_table import spread

BEGIN, END = "<!-- made by scripts/leaderboard.py: begin -->", "<!-- made by scripts/leaderboard.py: end -->"
FLOPS_KEPT = 0.8  # at which boards with MLP blocks are read off


def results_of(cells: Iterable[Cell]) -> tuple[list[Results], list[str]]:
    """Results of every board in order of first appearance, and a sentence for each board that has none."""
    found: dict[Board, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.board, []).append(cell)
    results, failed, named = [], [], titles(found)
    for board, own in found.items():
        try:
            results.append(Results(own))
        except InputError as error:
            failed.append(f"{named[board]}: {error}")
    return results, failed


def aggregates_of(boards: Sequence[Results]) -> dict[str, Aggregate]:
    """One figure a player over the boards that have repair, units and mode in common, by these."""
    groups: dict[str, list[Results]] = {}
    for results in boards:
        board = results.board
        groups.setdefault(f"{board.repair} repair, {board.what}, {board.mode}", []).append(results)
    found = {}
    for name, own in groups.items():
        if any(REFERENCE in results.players for results in own):
            aggregate = Aggregate(own)
            if len(aggregate.players) > 1:  # the reference alone says nothing
                found[name] = aggregate
    return found


def order_of(results: Results) -> list[str]:
    """Players, least area first; in the order played where there is no area."""
    if not results.has_areas:
        return list(results.players)
    return sorted(results.players, key=lambda name: float(results.areas[0, results.index(name)]))


def markdown(results: Results, versus: Sequence[str] = ()) -> str:
    """A row for each player, least area first: perplexity (mean ± spread over seeds) at each share, area, ratios, cost.

    Args:
        results: Results of one board.
        versus: Players that areas are divided by as well.
    """
    best, own = results.best_rule(), [name for name in results.players if is_own_rule(name)]
    columns: list[tuple[str, list[str]]] = []
    if results.has_areas:
        columns += [(f"area / best rule ({best})", results.rules)] if best else []
        columns += [("area / best residual", own)] if own else []
        columns += [(f"area / {name}", [name]) for name in versus if name in results.players]
    heads = ["player", *(f"{share:.0%}" for share in results.shares)]
    heads += ["area, nats", *(name for name, _ in columns), "rank"] if results.has_areas else []
    heads += ["evaluations", "FLOPs kept"]
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    for name in order_of(results):
        entries = [label(name), *(spread(list(results.perplexities(name, s)), ".2f", ".2f") for s in results.shares)]
        if results.has_areas:
            entries.append(f"{results.area(name).value:.4f}")
            entries += [str(results.area_ratio(name, others)) for _, others in columns]
            entries.append(results.rank(name).text(".0f"))
        cells = [cell for line in results.cells[results.index(name)] for cell in line]
        entries.append(f"{sum(cell.evaluations for cell in cells) / len(cells):.0f}")
        entries.append(f"{max(cell.flops_kept for cell in cells):.3f}-{min(cell.flops_kept for cell in cells):.3f}")
        lines.append("| " + " | ".join(entries) + " |")
    return "\n".join(lines)


def ratios(results: Results, reference: str = REFERENCE) -> str:
    """Perplexity of each player over the reference's, at each share: geometric mean over seeds, with its interval."""
    heads = [f"perplexity / {reference}", *(f"{share:.0%}" for share in results.shares)]
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    for name in order_of(results):
        if name != reference:
            found = [str(results.perplexity_ratio(name, reference, share)) for share in results.shares]
            lines.append("| " + " | ".join([label(name), *found]) + " |")
    return "\n".join(lines)


def at_flops(results: Results, kept: float = FLOPS_KEPT) -> str:
    """Rise of the loss of each player at a share of FLOPs kept, and over the best rule's there."""
    lines = [f"| at {kept:.0%} of the FLOPs | rise of the loss, nats | over the best rule's |", "|---|---:|---:|"]
    rules = results.rules
    for name in order_of(results):
        rise = results.rise_at(kept)
        ratio = str(results.rise_ratio(name, rules, kept)) if rules else ""
        lines.append(f"| {label(name)} | {rise[0, results.index(name)]:.4f} | {ratio} |")
    return "\n".join(lines)


def overall(found: Aggregate) -> str:
    """A row for each player: IQM of its scores over boards and shares, and its rank."""
    lines = ["| player | IQM of scores | rank |", "|---|---:|---:|"]
    for name in sorted(found.players, key=lambda name: found.score(name).value):
        lines.append(f"| {label(name)} | {found.score(name)} | {found.rank(name).text('.0f')} |")
    return "\n".join([*lines, *(["", found.note] if found.note else [])])


def report(cells: Iterable[Cell], versus: Sequence[str] = ()) -> str:
    """All tables of the cells as Markdown, each with a line about what it holds.

    Args:
        cells: All of a board should be of the same shares and seeds: players that lack some are named, not shown.
        versus: Players that areas are divided by as well.
    """
    cells = list(cells)
    boards, failed = results_of(cells)
    named, parts = titles(cell.board for cell in cells), []
    for name, found in aggregates_of(boards).items():
        if len(found.boards) > 1:
            parts += [f"### Over {len(found.boards)} boards ({name})", overall(found)]
    for results in boards:
        board, dense = results.board, float(results.dense.mean())
        lines = [
            f"Test perplexity (dense {math.exp(min(dense, 700.0)):.2f}) on {board.test_blocks} blocks of {board.max_length} "
            f"tokens, mean ± standard deviation over draws of {board.read_blocks} calibration "
            f"blocks ({len(results.seeds)}); ratios with 95% bootstrap intervals."
        ]
        if results.missing:
            lines.append(f"Not all cells are played yet: {', '.join(map(label, results.missing))}.")
        parts += [f"### {named[board]}", "\n".join(lines), markdown(results, versus)]
        if board.units != "heads" and results.has_areas and results.interval[0] <= FLOPS_KEPT <= results.interval[1]:
            parts.append(at_flops(results))
        if REFERENCE in results.players and len(results.players) > 1:
            parts.append(ratios(results))
    return "\n\n".join([*parts, *section(cells), *failed])


def parts_of_docs(path: Path) -> tuple[str, str]:
    """A page of documentation up to its first mark and from its second one on.

    Raises:
        InputError: No page there, or none with the marks.
    """
    page = path.read_text(encoding="utf-8") if path.is_file() else ""
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise InputError(
            f"{str(path)!r} must be a page that holds {BEGIN!r} and {END!r}, each once: name docs/lab/leaderboard_tables.md"
        )
    return page[: page.index(BEGIN) + len(BEGIN)], page[page.index(END) :]


def write_docs(path: Path, text: str, command: str) -> None:
    """Put a report into a page of documentation, between its two marks; the rest of the page stays.

    Raises:
        InputError: If the page has other marks (see `parts_of_docs`).
    """
    head, tail = parts_of_docs(path)
    write_text(path, f"{head}\n\n`{command}`\n\n{text}\n\n{tail}")
