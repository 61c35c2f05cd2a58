"""One leaderboard run: the cells that a file lacks are played, and all that it holds is put into a table."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from plasticity_env.agents.leaderboard.board_cells import Cell, cell_file, parse, row, titles
from plasticity_env.agents.leaderboard.leaderboard_config import LeaderboardConfig
from plasticity_env.agents.leaderboard.players import Player, fingerprint, read_player, read_players
from plasticity_env.agents.leaderboard.report.board_page import write_leaderboard
from plasticity_env.agents.leaderboard.report.board_tables import (
    aggregates_of,
    parts_of_docs,
    report,
    results_of,
    write_docs,
)
from plasticity_env.agents.leaderboard.report.labels import label
from plasticity_env.agents.leaderboard.statistics import Results
from plasticity_env.agents.leaderboard.submissions import play_submission, read_submission
from plasticity_env.agents.leaderboard.tracked_cells import CELL_DECISIONS, cell_decisions, track_cell
from plasticity_env.agents.leaderboard.workers import Job, open_all, play_all
from plasticity_env.common import cli
from plasticity_env.common.arguments import fill, plain
from plasticity_env.common.at_work import at_work_on
from plasticity_env.common.errors import InputError, unknown
from plasticity_env.common.tracking import Tracker


def leaderboard(config: LeaderboardConfig) -> str:
    """Play what is missing, then write page, documentation and table of all that the file holds.

    Returns:
        The tables.

    Raises:
        InputError: Arguments that cannot be used, or another process at work on the file, before anything is played.
        OSError: Nothing can be written there, likewise.
    """
    with at_work_on(config.output):
        return _leaderboard(config)


def _leaderboard(config: LeaderboardConfig) -> str:
    if config.docs is not None:
        parts_of_docs(config.docs)
    file, prints = cell_file(config.output), fingerprints(read_players(cli.words(config.players)))
    jobs, guests = missing_jobs(config, prints), [read_submission(text) for text in cli.words(config.submissions)]
    _check_versus(config, {player.text for player in [*prints, *guests]} | {cell.player for cell in file.read()})
    replayed = list(map(config.rules, cli.words(config.models))) if guests else []
    open_all([*(job.rules for job in jobs), *replayed], stay=config.workers == 1 and config.ray_address is None)
    total, shares = sum(len(job.shares) for job in jobs), cli.numbers(config.shares, "shares")

    def asked_for() -> list[Cell]:
        return [cell for cell in file.read() if cell.share in shares and cell.seed < config.seeds]

    if not total and not guests and not asked_for():
        raise InputError(
            f"{str(config.output)!r} holds no cell of the shares {config.shares} and {config.seeds} draws, and nothing was to be "
            "played: name --players, or the file of an earlier run"
        )
    if total:
        print(f"{cli.machine()}; {total} cells to play", file=sys.stderr)
    with Tracker(config.place, plain(config), config.tracking, resume=True, program="leaderboard") as tracker:
        before = len(file.read())
        for done, line in enumerate(play_all(jobs, config.workers, config.ray_address), 1):
            file.append(line)
            cell = parse(line)
            track_cell(tracker, cell, before + done)
            print(f"{done}/{total} {_line(cell)}", file=sys.stderr)
        for number, cell in enumerate(_submitted(config, guests), before + total + 1):
            file.append(row(cell))
            track_cell(tracker, cell, number)
            print(f"replayed {_line(cell)}", file=sys.stderr)
        prints |= fingerprints(guest for guest in guests if not guest.is_entry_point)
        return publish(current_cells(asked_for(), prints), config, tracker)


def fingerprints(players: Iterable[Player]) -> dict[Player, str]:
    """What each player is now.

    Raises:
        InputError: A player that cannot be used.
    """
    return {player: fingerprint(player, player.make()) for player in players}


def current_cells(cells: Sequence[Cell], prints: Mapping[Player, str]) -> list[Cell]:
    """Cells without those that another version of a known player has left, be they the newest of the file.

    A player whose version never comes twice (``ann:untrained``) keeps its newest ones.
    """
    there = {(cell.player, cell.fingerprint) for cell in cells}
    current = {player.text: digest for player, digest in prints.items() if (player.text, digest) in there}
    return [cell for cell in cells if current.get(cell.player, cell.fingerprint) == cell.fingerprint]


def publish(cells: list[Cell], config: LeaderboardConfig, tracker: Tracker) -> str:
    """Write the page, the documentation if asked for, and the tables; returns the tables as text."""
    text = report(cells, [read_player(name).text for name in cli.words(config.versus)])
    boards, _ = results_of(cells)
    named = titles(results.board for results in boards)
    page = config.page or config.place / "leaderboard.html"
    if boards:
        write_leaderboard(page, boards, aggregates_of(boards), cli.command())
    if config.docs is not None:
        write_docs(config.docs, text, cli.command())
    columns = ["board", "player", "share", "test_ppl", "test_ppl_std", "delta_nll", "flops_kept", "evaluations"]
    columns += ["area_ratio", "area_ratio_low", "area_ratio_high", "validated"]
    lines = [line for results in boards for line in table_rows(results, named[results.board])]
    tracker.table("leaderboard", columns, lines)
    tracker.table("decisions", CELL_DECISIONS, cell_decisions(cells))
    if boards:
        tracker.artifact("dashboard", page)
    return text


def table_rows(results: Results, title: str) -> Iterator[list[Any]]:
    """A row for each player and share of a board, as W&B shows them; perplexities are means over seeds."""
    best = results.best_rule()
    for name in results.players:
        ratio = results.area_ratio(name, results.rules) if best else None
        interval = [ratio.value, ratio.low, ratio.high] if ratio else [None, None, None]
        for place, share in enumerate(results.shares):
            cells = results.cells[results.index(name)][place]
            ppl = results.perplexities(name, share)
            yield [
                title,
                label(name),
                share,
                float(ppl.mean()),
                float(ppl.std(ddof=1)) if len(ppl) > 1 else 0.0,
                float(results.means[0, results.index(name), place].mean()),
                sum(cell.flops_kept for cell in cells) / len(cells),
                sum(cell.evaluations for cell in cells) / len(cells),
                *interval,
                all(cell.validated for cell in cells),
            ]


def _submitted(config: LeaderboardConfig, guests: list[Player]) -> Iterator[Cell]:
    shares = cli.numbers(config.shares, "shares")
    for rules in map(config.rules, cli.words(config.models)):
        for guest in guests:
            there = [cell for cell in cell_file(config.output).read() if cell.player == guest.text]
            known = [[c.fingerprint, c.share, c.seed] for c in there if c.board == rules.board and c.validated]
            yield from play_submission(guest, rules, shares, config.seeds, known)


def missing_jobs(config: LeaderboardConfig, prints: Mapping[Player, str]) -> list[Job]:
    """What the file lacks, in an order in which players of a model and seed follow each other.

    Args:
        config: Arguments.
        prints: Fingerprints of the players.

    Raises:
        InputError: Arguments that cannot be used.
    """
    models, shares = cli.words(config.models), cli.numbers(config.shares, "shares")
    signals = tuple(dict.fromkeys(name for player in prints for name in getattr(player.make(), "signals", ())))
    if prints and not models:
        raise InputError("nothing to play on: give at least one model, or no players to see the tables alone")
    if not shares or any(not 0 < share < 1 for share in shares) or config.seeds < 1:
        raise InputError(
            f"shares must lie between 0 and 1 and seeds be at least 1, got {config.shares!r}, {config.seeds}"
        )
    known = {cell.key for cell in cell_file(config.output).read()}
    jobs = []
    for rules in (fill(config.rules(model), {"signals": signals}) for model in models):
        for seed in range(config.seeds):
            for player, digest in prints.items():
                lacking = [share for share in shares if (rules.board, player.text, digest, share, seed) not in known]
                if lacking:
                    jobs.append(Job(rules, player, seed, tuple(lacking)))
    return jobs


def _check_versus(config: LeaderboardConfig, known: set[str]) -> None:
    for text in cli.words(config.versus):
        if read_player(text).text not in known:
            raise unknown("player of --versus", read_player(text).text, known, "; play it, or leave it out")


def _line(cell: Cell) -> str:
    loss = sum(cell.test_losses) / len(cell.test_losses)
    return (
        f"{cell.board.model} {cell.player} {cell.share:g} seed {cell.seed}: loss {loss:.4f}, "
        f"{cell.flops_kept:.3f} of FLOPs, {cell.seconds:.1f} s"
    )
