"""One leaderboard run: the cells that a file lacks are played, and all that it holds is put into a table."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agents.leaderboard.cells import Cell, cell_file, row
from agents.leaderboard.players import Player, fingerprint, read_player
from agents.leaderboard.playing import Rules, Table
from agents.leaderboard.tables import report
from plasticity_env import cli
from plasticity_env.errors import InputError

RULES = "random,magnitude,gradient,fisher,obs,activation,entropy_low,entropy_high,residual_fisher,residual_gradient"


@dataclass(frozen=True)
class LeaderboardConfig:
    """Arguments of a leaderboard."""

    models: str = "bard-gpt2-4x4"
    """models, separated by commas: embedded names, folders, GGUF files or hub names"""
    players: str = RULES
    """NAME or NAME@ROUNDS: a rule, a saved controller's folder, package.module:function, or a search (swap_search:10)"""
    shares: str = "0.1,0.2,0.3,0.4,0.5,0.6"
    """shares of heads to prune, separated by commas"""
    seeds: int = 3
    """draws of calibration text"""
    dataset: str = "shakespeare"
    """text: shakespeare, a path, or a hub data set"""
    dataset_config: str | None = None
    """configuration of a hub data set"""
    max_length: int = 128
    """tokens a block"""
    calibration_blocks: int = 16
    """blocks that score and repair"""
    reward_blocks: int = 16
    """blocks that searches minimise the loss of"""
    test_blocks: int = 64
    """blocks of the test split that are scored"""
    repair: str = "least_squares"
    """none, bias, scale, least_squares, sequential or sequential_mlp"""
    units: str = "heads"
    """what can be pruned: heads, or heads+mlp (shares are then of the units' FLOPs)"""
    mlp_blocks: int = 8
    """equal blocks of neurons in each MLP, with --units heads+mlp"""
    mode: str = "adaptive"
    """adaptive or compressed"""
    batch_size: int = 8
    """sequences in one pass"""
    device: str = "cpu"
    """cpu, cuda, cuda:0, ..."""
    output: Path = Path("runs/leaderboard/cells.jsonl")
    """finished cells, one JSON line each; a second run goes on where the first was cut"""

    def rules(self, model_name: str) -> Rules:
        """Of one model's board."""
        shared = {name: getattr(self, name) for name in Rules.__dataclass_fields__ if hasattr(self, name)}
        return Rules(model_name=model_name, **shared)


@dataclass(frozen=True)
class Job:
    """The missing cells of one player with one seed on one model.

    Attributes:
        rules: Of the board.
        player: Who.
        seed: Of the blocks.
        shares: To play.
    """

    rules: Rules
    player: Player
    seed: int
    shares: tuple[float, ...]


def leaderboard(config: LeaderboardConfig) -> str:
    """Play what is missing; returns the table of all that the file holds.

    Raises:
        InputError: Arguments that cannot be used, before anything is played.
    """
    file, jobs = cell_file(config.output), missing_jobs(config)
    total = sum(len(job.shares) for job in jobs)
    print(f"{cli.machine()}; {total} cells to play", file=sys.stderr)
    done = 0
    for job in jobs:
        for cell in play(job):
            file.append(row(cell))
            done += 1
            print(f"{done}/{total} {_line(cell)}", file=sys.stderr)
    shares = cli.numbers(config.shares, "shares")
    return report(cell for cell in file.read() if cell.share in shares and cell.seed < config.seeds)


def missing_jobs(config: LeaderboardConfig) -> list[Job]:
    """What the file lacks, in an order in which players of a model and seed follow each other.

    Raises:
        InputError: Arguments that cannot be used.
    """
    models, players = cli.words(config.models), [read_player(text) for text in cli.words(config.players)]
    shares = cli.numbers(config.shares, "shares")
    if not models or not players:
        raise InputError("nothing to play: give at least one model and one player")
    if not shares or any(not 0 < share < 1 for share in shares) or config.seeds < 1:
        raise InputError(
            f"shares must lie between 0 and 1 and seeds be at least 1, got {config.shares!r}, {config.seeds}"
        )
    known = {cell.key for cell in cell_file(config.output).read()}
    prints = {player: fingerprint(player, player.make()) for player in dict.fromkeys(players)}
    jobs = []
    for rules in map(config.rules, models):
        for seed in range(config.seeds):
            for player, digest in prints.items():
                lacking = [share for share in shares if (rules.board, player.text, digest, share, seed) not in known]
                if lacking:
                    jobs.append(Job(rules, player, seed, tuple(lacking)))
    return jobs


_table: Table | None = None  # of this process: the model that was used last stays loaded


def play(job: Job) -> Iterator[Cell]:
    """The cells of a job."""
    global _table
    if _table is None or _table.rules != job.rules:
        _table = None  # one model at a time
        _table = Table(job.rules)
    maker = job.player.make()
    for share in job.shares:
        yield _table.play(job.player, share, job.seed, maker)


def _line(cell: Cell) -> str:
    loss = sum(cell.test_losses) / len(cell.test_losses)
    return (
        f"{cell.board.model} {cell.player} {cell.share:g} seed {cell.seed}: loss {loss:.4f}, "
        f"{cell.flops_kept:.3f} of FLOPs, {cell.seconds:.1f} s"
    )
