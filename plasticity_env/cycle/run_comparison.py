"""Strategies beside each other: one warm-up, one control arm, and a run of its own for each strategy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from plasticity_env.common import cli
from plasticity_env.common.at_work import at_work_in
from plasticity_env.common.errors import InputError
from plasticity_env.common.files import write_text
from plasticity_env.common.values import user_path
from plasticity_env.cycle import run_checkpoint as checkpoint
from plasticity_env.cycle.deciders import Decider
from plasticity_env.cycle.experiment import NeuralPlasticityExperiment, Say
from plasticity_env.cycle.record import CONFIG, RunRecord
from plasticity_env.cycle.run_checks import refuse_used
from plasticity_env.cycle.run_settings import ExperimentSettings, check_strategy
from plasticity_env.cycle.summary import summarise
from plasticity_env.data.text import TextSplits
from plasticity_env.plots.charts import blank_figure, plain_log_ticks, save_png

FILE, TABLE, CHART = "comparison.json", "comparison.txt", "comparison.png"
MakeDecider = Callable[[ExperimentSettings], Decider]


@dataclass(frozen=True)
class ComparisonRow:
    """What a strategy's run came to; losses are of the test split, nats per token.

    Attributes:
        strategy: Name of the strategy.
        pruned_heads, pruned_ppl: Figures after the first cycle's pruning.
        active_heads, flops_kept, loss, ppl: Figures at the end.
        control_ppl: Perplexity of the control arm after the same training.
        delta_nll: loss minus the control arm's.
        recovered: Share of the loss that the last cycle's pruning cost that training brought back, or None.
    """

    strategy: str
    pruned_heads: int
    pruned_ppl: float
    active_heads: int
    flops_kept: float
    loss: float
    ppl: float
    control_ppl: float
    delta_nll: float
    recovered: float | None


def compare_strategies(
    settings: ExperimentSettings,
    folder: str | Path,
    strategies: Sequence[str],
    decider_for: MakeDecider,
    say: Say | None = None,
    resume: bool = False,
    text: TextSplits | None = None,
    pages: bool = True,
) -> list[ComparisonRow]:
    """Run every strategy from the end of one warm-up and write ``comparison.{json,txt,png}``.

    The first run trains the control arm; the others take it from its record, and their warm-up from its checkpoint.

    Args:
        settings: Settings of all runs but for the strategy.
        folder: A new or empty folder; each strategy gets a folder in it.
        strategies: Names, the first one's run is made first.
        decider_for: Makes the decider that settings name.
        say: Called with a sentence after each phase.
        resume: Go on with a comparison that was stopped; runs that are finished are only read.
        text: A text instead of the settings'.
        pages: Write each run's pages and pictures.

    Returns:
        One row a strategy.

    Raises:
        InputError: An unknown strategy, or a folder that is in use (or, to resume, holds no comparison).
    """
    folder = user_path(folder, "a run folder")
    with at_work_in(folder):
        return _compare(settings, folder, strategies, decider_for, say, resume, text, pages)


def _compare(
    settings: ExperimentSettings,
    folder: Path,
    strategies: Sequence[str],
    decider_for: MakeDecider,
    say: Say | None,
    resume: bool,
    text: TextSplits | None,
    pages: bool,
) -> list[ComparisonRow]:
    if not strategies:
        raise InputError("nothing to compare: give at least one strategy")
    settings = replace(settings, checkpoints=True)
    each = {name: replace(settings, pruning_strategy=check_strategy(name)) for name in strategies}
    deciders = {name: decider_for(each[name]) for name in strategies}
    if resume and not (folder / strategies[0] / CONFIG).is_file():
        raise InputError(f"{str(folder)!r} holds no comparison whose first run is {strategies[0]!r}: start it again")
    if not resume:
        refuse_used(folder)
    first, rows = folder / strategies[0], []
    for name in strategies:
        told = (lambda sentence, name=name: say(f"[{name}] {sentence}")) if say else None  # type: ignore[misc]
        warm = None if name == strategies[0] else first
        run = _begin(each[name], folder / name, warm, deciders[name], say=told, text=text, pages=pages)
        rows.append(row_of(name, run.run()))
        write_comparison(folder, settings, rows)
    checkpoint.forget(first)
    return rows


def row_of(strategy: str, record: RunRecord) -> ComparisonRow:
    """The row of a run that is finished."""
    found = summarise(record)
    cycles, final, control = found["cycles"], found["final"], found["control"]
    pruned = cycles[0]["pruning"]
    everything = final["active_heads"] / (1 - final["sparsity"])
    return ComparisonRow(
        strategy=strategy,
        pruned_heads=round(everything - pruned["active_heads"]),
        pruned_ppl=pruned["ppl"],
        active_heads=final["active_heads"],
        flops_kept=final["flops_kept"],
        loss=final["loss"],
        ppl=final["ppl"],
        control_ppl=control["ppl"],
        delta_nll=final["loss"] - control["loss"],
        recovered=cycles[-1]["recovered"],
    )


def write_comparison(folder: Path, settings: ExperimentSettings, rows: Sequence[ComparisonRow]) -> None:
    """Write the rows, as a table and as a chart too."""
    values: dict[str, Any] = {
        "command": cli.command(),
        "machine": cli.machine(),
        "settings": settings.to_json(),
        "rows": [asdict(row) for row in rows],
    }
    write_text(folder / FILE, json.dumps(values, indent=1) + "\n")
    write_text(folder / TABLE, table_of(rows))
    comparison_png(rows, folder / CHART)


def table_of(rows: Sequence[ComparisonRow]) -> str:
    """The rows as text, best end first; the control arm stands below."""
    head = f"{'strategy':<16}{'pruned':>8}{'ppl pruned':>12}{'heads left':>12}{'FLOPs':>8}{'ppl':>10}{'ΔNLL':>9}{'recovered':>11}"
    lines = [head, "-" * len(head)]
    for row in sorted(rows, key=lambda row: row.loss):
        back = "-" if row.recovered is None else f"{row.recovered:.0%}"
        lines.append(
            f"{row.strategy:<16}{row.pruned_heads:>8}{row.pruned_ppl:>12.2f}{row.active_heads:>12}{row.flops_kept:>8.1%}"
            f"{row.ppl:>10.2f}{row.delta_nll:>+9.4f}{back:>11}"
        )
    if rows:
        lines.append(f"{'control':<16}{0:>8}{'':>12}{'':>12}{1:>8.1%}{rows[0].control_ppl:>10.2f}{0.0:>+9.4f}")
    return "\n".join(lines) + "\n"


def comparison_png(rows: Sequence[ComparisonRow], path: Path) -> None:
    """Draw the perplexity of every strategy after pruning and at the end, beside the control arm's."""
    ordered = sorted(rows, key=lambda row: row.loss, reverse=True)
    figure = blank_figure(8, 1.6 + 0.42 * len(ordered))
    panel = figure.subplots()
    for at, row in enumerate(ordered):
        panel.plot([row.ppl, row.pruned_ppl], [at, at], color="#C9CBC8", linewidth=2, zorder=1)
    for column, colour, name in (
        ("pruned_ppl", "#B4562F", "after the first pruning"),
        ("ppl", "#1F5F8B", "at the end"),
    ):
        panel.scatter(
            [getattr(row, column) for row in ordered], range(len(ordered)), color=colour, label=name, zorder=2
        )
    panel.axvline(ordered[0].control_ppl, color="#6B6F6D", linestyle="--", linewidth=1.2, label="control arm")
    panel.set_yticks(range(len(ordered)), [row.strategy for row in ordered])
    panel.set_xscale("log")
    plain_log_ticks(panel, "x")
    panel.set_xlabel("test perplexity")
    panel.set_title("Pruning strategies, the same warm-up, training and control arm", loc="left", fontsize=10)
    panel.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    save_png(figure, path)


def _begin(
    settings: ExperimentSettings, folder: Path, first: Path | None, decider: Decider, **more: Any
) -> NeuralPlasticityExperiment:
    """A strategy's run: new, from the first one's warm start, or where it was stopped."""
    there = (folder / CONFIG).is_file()
    if there and (checkpoint.has_checkpoint(folder) or RunRecord.read(folder).config.get("status") == "finished"):
        return NeuralPlasticityExperiment.resume(folder, decider, keep_warm_start=first is None, **more)
    if folder.is_dir():
        shutil.rmtree(folder)  # killed before its first phase was over
    if first is None:
        return NeuralPlasticityExperiment(settings, folder, decider, keep_warm_start=True, **more)
    return NeuralPlasticityExperiment.branch(first, settings, folder, decider, **more)
