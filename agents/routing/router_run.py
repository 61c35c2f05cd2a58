"""A run that trains a router: its numbers, what it picks for the texts that no run learns from, and the router."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from plasticity_env.agents.routing.router_arguments import RouterTraining
from plasticity_env.agents.routing.router_training import check_texts, train_router
from plasticity_env.common.arguments import plain
from plasticity_env.common.tracking import Tracker, TrackingOptions, new_run_folder
from plasticity_env.controllers.routers.learned_router import LearnedRouter
from plasticity_env.dynamic.route_table import RouteTable
from plasticity_env.envs.route_split import split_texts

PICKS = ["text", "kind", "price", "structure", "rise", "flops_kept"]


def run_router(
    table: RouteTable,
    how: RouterTraining,
    output: Path,
    run_dir: Path | None,
    tracking: TrackingOptions,
    say: Callable[[str], None],
) -> tuple[LearnedRouter, Path]:
    """Train a router, save it, and write the run's folder.

    Args:
        table: What was measured.
        how: Arguments of the training.
        output: Where the router goes.
        run_dir: The run's folder; None: a new one under ``runs/``.
        tracking: Where else the numbers go.
        say: Told of each stage.

    Returns:
        The router and the run's folder.

    Raises:
        InputError: Fewer than eight train texts, or a folder that holds a run.
    """
    check_texts(table, how)
    folder = run_dir or new_run_folder("train_router")
    with Tracker(folder, plain(how), tracking, program="train-router") as tracker:
        router = train_router(table, how, say, lambda step, metrics: tracker.log(metrics, step))
        router.save(output)
        tracker.table("decisions", PICKS, picks(table, how, router))
        tracker.artifact("controller", output)
    return router, folder


def picks(table: RouteTable, how: RouterTraining, router: LearnedRouter) -> list[list[Any]]:
    """A row of `PICKS` for each train text at the lowest, middle and highest price."""
    texts, rows = split_texts(table, "train", how.test_share, how.held_out), []
    low, high = how.prices
    for price in sorted({low, math.sqrt(low * high), high}):
        played = router.at(price).play(table, texts)
        rises, kept = played.rise(table, texts).tolist(), played.flops_kept(table).tolist()
        for text, structure, rise, share in zip(texts.tolist(), played.structures.tolist(), rises, kept, strict=True):
            rows.append([text, table.kinds[int(table.kind[text])], price, table.structures[structure], rise, share])
    return rows
