"""One comparison run: controllers x repairs x sparsities x seeds, a table, a file, a picture."""

from __future__ import annotations

import io
import json
import math
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from plasticity_env import controllers
from plasticity_env.agents.evaluation.compare_config import CompareConfig
from plasticity_env.agents.evaluation.evaluation import Arena, Row, results_json, summarise
from plasticity_env.agents.evaluation.frontier import frontier_png
from plasticity_env.agents.training.agent import ENVIRONMENTS
from plasticity_env.common import cli
from plasticity_env.common.arguments import plain
from plasticity_env.common.at_work import at_work_in
from plasticity_env.common.errors import InputError, unknown
from plasticity_env.common.files import write_text
from plasticity_env.common.progress import Progress
from plasticity_env.common.tracking import Tracker, new_run_folder
from plasticity_env.data.text import TextSplits
from plasticity_env.envs.make_workbench import load_model_and_text
from plasticity_env.model.loading import LoadedModel
from plasticity_env.repair import find_repair

TABLE_WIDTH = 150  # columns where no terminal sets them


Player = tuple[str, dict[str, Any], str | None]  # name, options, label


def prepare(config: CompareConfig) -> tuple[list[Player], list[str], LoadedModel, TextSplits]:
    """Check the arguments of a comparison; returns its players, repairs, model and text.

    Raises:
        InputError: Arguments that cannot be used.
    """
    config.protocol()
    controllers.make("plasticity", **_rule(config))  # refuses a direction that there is not
    players = [_player(name, config) for name in cli.words(config.controllers)]
    repairs = [find_repair(name).name for name in cli.words(config.repair)]
    labels = [label or name for name, _, label in players]
    if len(set(labels)) < len(labels):
        raise InputError(f"controllers must differ, got {config.controllers!r}")
    if not players or not repairs:
        raise InputError("nothing to compare: give at least one controller and one repair")
    if config.env not in ENVIRONMENTS:
        raise unknown("environment", config.env, ENVIRONMENTS)
    loaded, text = load_model_and_text(config.settings)
    return players, repairs, loaded, text


def compare(config: CompareConfig, after_each: Callable[[], object] | None = None) -> Path:
    """Play every controller with every repair; rows are written as they are measured.

    Args:
        config: Arguments.
        after_each: Called when a controller has been played and its rows are in ``results.json``.

    Returns:
        The folder: ``results.json``, ``frontier.png``, ``table.txt``, ``metrics.jsonl``.

    Raises:
        InputError: Arguments that cannot be used, before anything is written, or another process is at work in the folder.
    """
    with at_work_in(config.output_dir):
        return _compare(config, after_each)


def _compare(config: CompareConfig, after_each: Callable[[], object] | None) -> Path:
    players, repairs, loaded, text = prepare(config)
    protocol = config.protocol()
    made = (controllers.make(name, **options) for name, options, _ in players)
    settings = replace(config.settings, signals=tuple(dict.fromkeys(name for each in made for name in each.signals)))
    arenas = [
        Arena(protocol, loaded, text, ENVIRONMENTS[config.env], replace(settings, repair=repair)) for repair in repairs
    ]
    folder = config.output_dir or new_run_folder("evaluate")
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    written: dict[str, Any] = {}
    with (
        Tracker(folder, plain(config), config.tracking, program="evaluate") as tracker,
        Progress("evaluating", len(players) * len(repairs)) as progress,
    ):
        for arena in arenas:
            for name, options, label in players:
                for row in arena.play(name, options, label):
                    rows.append(row)
                    tracker.log(_metrics(row), len(rows))
                    tracker.heads(row.active, len(rows), f"{row.controller}/{row.repair}", loaded.model.heads)
                written = results_json(arena, rows, cli.command(), cli.machine())
                write_text(folder / "results.json", json.dumps(written, indent=1))
                progress.advance(1, perplexity=rows[-1].test_ppl)
                if after_each is not None:
                    after_each()
        tracker.table("results", list(summarise(rows)[0]), [list(line.values()) for line in summarise(rows)])
    frontier_png(written, folder / "frontier.png")
    tables = comparison_tables(rows, written)
    console = Console()
    (console if console.is_terminal else Console(width=TABLE_WIDTH)).print(*tables)
    page = io.StringIO()
    Console(file=page, width=TABLE_WIDTH).print(*tables)
    write_text(folder / "table.txt", page.getvalue())
    return folder


def comparison_tables(rows: list[Row], results: dict[str, Any]) -> list[Table]:
    """Test perplexity by controller and sparsity, and what networks chose at each price; mean and deviation over seeds."""
    lines, dense = summarise(rows), results["dense"]
    what = f"{results['model']} on {results['dataset']}, test perplexity (dense {dense['test_ppl']:.2f})"
    tables = []
    targets = sorted({line["sparsity"] for line in lines if line["sparsity"] is not None})
    ranked: dict[tuple[str, str], dict[float | None, str]] = {}
    for line in lines:
        if line["flop_price"] is None:
            ranked.setdefault((line["controller"], line["repair"]), {})[line["sparsity"]] = _perplexity(line)
    if ranked:
        share = "heads" if results["units"] == "heads" else "the units' FLOPs (heads and MLP blocks)"
        table = Table(title=f"{what} after pruning a share of {share}")
        for heading in ("controller", "repair"):
            table.add_column(heading, no_wrap=True)
        for target in targets:
            table.add_column(f"{target:.0%}", justify="right", no_wrap=True)
        for (name, repair), cells in ranked.items():
            table.add_row(name, repair, *[cells.get(target, cells.get(None, "")) for target in targets])
        tables.append(table)
    priced = [line for line in lines if line["flop_price"] is not None]
    if priced:
        table = Table(title=f"{what} where the network chooses how much to prune")
        for heading in ("controller", "repair", "price", "perplexity", "FLOPs kept", "active heads"):
            table.add_column(heading, no_wrap=True)
        for line in priced:
            share = f"{line['active_heads']:.1f} of {dense['heads']}"
            chosen = (f"{line['flop_price']:g}", _perplexity(line), f"{line['flops_kept']:.1%}", share)
            table.add_row(line["controller"], line["repair"], *chosen)
        tables.append(table)
    prices = sorted({line["flop_price"] for line in priced})
    if prices:
        tables.append(_return_table(rows, results, prices))
    return tables


def _return_table(rows: list[Row], results: dict[str, Any], prices: list[float]) -> Table:
    """What each controller earns on the test text; one that prunes a given share gets its best share, in hindsight."""
    table = Table(
        title=f"{results['model']}: return on the test text, log(ppl_0 / ppl) - price x log(FLOPs kept); rules at their best "
        "share for each price, chosen in hindsight"
    )
    for heading in ("controller", "repair", *(f"price {price:g}" for price in prices)):
        table.add_column(heading, no_wrap=True)
    for name, repair in dict.fromkeys((row.controller, row.repair) for row in rows):
        own = [row for row in rows if (row.controller, row.repair) == (name, repair)]
        cells = []
        for price in prices:
            shares: dict[float | None, list[float]] = {}
            for row in own:
                if row.flop_price in (None, price):
                    shares.setdefault(row.sparsity, []).append(-row.delta_nll - price * math.log(row.flops_kept))
            best = max(shares.values(), key=lambda values: sum(values) / len(values))
            spread = f" ± {statistics.stdev(best):.3f}" if len(best) > 1 else ""
            cells.append(f"{statistics.mean(best):.3f}{spread}")
        table.add_row(name, repair, *cells)
    return table


def _perplexity(line: dict[str, Any]) -> str:
    return f"{line['test_ppl']:.2f}" + (f" ± {line['test_ppl_std']:.2f}" if line["seeds"] > 1 else "")


def _player(name: str, config: CompareConfig) -> Player:
    options: dict[str, Any] = {}
    called, _, behind = name.rpartition("=")
    if called and not Path(name).is_dir():
        _, options, _ = _player(behind, config)  # fails here as one without a label does
        return behind, options, called.strip()
    label: str | None = None
    if name == "plasticity":
        options = _rule(config)
    controller = controllers.make(name, **options)  # fails here, before anything is measured, if it cannot be made
    rules = [player for player in controllers.names() if player != controllers.ANNController.name]
    networks = [player for player in cli.words(config.controllers) if player not in rules]
    if name.startswith(f"{controllers.ANNController.name}:"):
        label = name
    elif name in networks and name != controller.name and len(networks) > 1:
        label = f"{controller.name} ({Path(name)})"
    return name, options, label


def _rule(config: CompareConfig) -> dict[str, Any]:
    """Options of the plasticity controller; without an aggressiveness of its own it is searched for."""
    given = {} if config.aggressiveness is None else {"aggressiveness": config.aggressiveness}
    return {"prune_entropy": config.prune_entropy, **given, **config.thresholds.options()}


def _metrics(row: Row) -> dict[str, float]:
    name = f"{row.controller}/{row.repair}"
    return {f"{name}/test_ppl": row.test_ppl, f"{name}/flops_kept": row.flops_kept}
