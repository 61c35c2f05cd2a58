"""Jobs of cells: here, in processes beside each other, or as Ray tasks; whoever plays, one process writes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, TypeVar

import torch

from plasticity_env.agents.leaderboard.board_cells import row
from plasticity_env.agents.leaderboard.board_rules import Rules
from plasticity_env.agents.leaderboard.players import Player
from plasticity_env.agents.leaderboard.playing import Table, packed_of
from plasticity_env.common.child_processes import worker_pool
from plasticity_env.common.errors import InputError
from plasticity_env.envs.shared_arrays import PackedModel

R = TypeVar("R")


@dataclass(frozen=True)
class Job:
    """The missing cells of one player with one seed on one model.

    Attributes:
        rules: Rules of the board.
        player: The player.
        seed: Seed of the blocks.
        shares: Shares to play.
    """

    rules: Rules
    player: Player
    seed: int
    shares: tuple[float, ...]


_table: Table | None = None  # of this process: the model that was used last stays loaded


def table_of(rules: Rules, packed: PackedModel | None = None) -> Table:
    """The table of some rules; the one before is given up, so that one model at a time is loaded."""
    global _table
    if _table is None or _table.rules != rules or _table.packed != (packed and packed.key):
        _table = None
        _table = Table(rules, packed)
    return _table


def open_all(rules: Iterable[Rules], stay: bool) -> None:
    """Open the table of every rules, so that a model that cannot be used is refused before others are played.

    Args:
        rules: Rules, in the order in which they will be played.
        stay: Keep the first open.

    Raises:
        InputError: If a model or its text cannot be read (see `Table`).
    """
    global _table
    for one in reversed(dict.fromkeys(rules)):
        table_of(one)
    if not stay:
        _table = None


def single_cells(jobs: Iterable[Job]) -> list[Job]:
    """The same jobs in the same order, each of one cell: what is lost where a process dies."""
    return [replace(job, shares=(share,)) for job in jobs for share in job.shares]


def play(job: Job, packed: PackedModel | None = None) -> Iterator[dict[str, Any]]:
    """The lines of a job's cells, one after another."""
    table, maker = table_of(job.rules, packed), job.player.make()
    for share in job.shares:
        yield row(table.play(job.player, share, job.seed, maker))


def play_whole(job: Job) -> list[dict[str, Any]]:
    """The lines of a job's cells."""
    return list(play(job))


def play_packed(packed: PackedModel, job: Job) -> list[dict[str, Any]]:
    """The lines of a job's cells, played on a model that lies in shared memory."""
    return list(play(job, packed))


def play_all(jobs: Sequence[Job], workers: int = 1, ray_address: str | None = None) -> Iterator[dict[str, Any]]:
    """The lines of all jobs' cells, as they are done; beside each other, cell by cell.

    Args:
        jobs: What to play.
        workers: Processes beside each other on this machine; each loads the models itself. With Ray, tasks at a time.
        ray_address: Address of a Ray cluster ("auto", "local", "host:port"); None plays without Ray.

    Raises:
        InputError: No workers, a job that cannot be played (what others have done is yielded before), a worker that died, or a
            Ray cluster that does not answer.
    """
    if workers < 1:
        raise InputError(f"workers must be at least 1, got {workers}")
    if not jobs:
        return
    if ray_address is not None:
        from plasticity_env.agents.rllib.ray_tasks import map_tasks

        for rules, own in groupby(single_cells(jobs), lambda job: job.rules):
            gpus = 1.0 if rules.settings.device.startswith("cuda") else 0.0
            shared = packed_of(rules)
            for _, lines in map_tasks(play_packed, own, address=ray_address, workers=workers, gpus=gpus, shared=shared):
                yield from lines
    elif workers == 1:
        for job in jobs:
            yield from play(job)
    else:
        threads, cells = max(1, (os.cpu_count() or 1) // workers), single_cells(jobs)
        with worker_pool(min(workers, len(cells)), torch.set_num_threads, (threads,)) as pool:
            for lines in finished([pool.submit(play_whole, cell) for cell in cells]):
                yield from lines


def finished(futures: Sequence[Future[R]]) -> Iterator[R]:
    """Results as they come; once one failed nothing more begins, and what runs or is done counts before its error is raised."""
    told = set()
    for done in as_completed(futures):
        told.add(done)
        error = done.exception()
        if error is None:
            yield done.result()
            continue
        running = [future for future in futures if future not in told and not future.cancel()]
        yield from (future.result() for future in running if future.exception() is None)
        raise error
