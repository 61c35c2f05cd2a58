"""The plasticity cycle from the command line: one run, one that goes on, or all strategies beside each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from plasticity_env.agents.cycle_cli.deciding import decider_for
from plasticity_env.agents.cycle_cli.run_arguments import QUICK, RunArguments
from plasticity_env.common.at_work import at_work_in
from plasticity_env.common.cli import words
from plasticity_env.common.errors import InputError
from plasticity_env.cycle.experiment import NeuralPlasticityExperiment
from plasticity_env.cycle.record import RunRecord
from plasticity_env.cycle.run_checks import refuse_used, settings_of
from plasticity_env.cycle.run_comparison import ComparisonRow, compare_strategies
from plasticity_env.cycle.run_settings import CONTROLLER, check_strategy, new_run_path

DONE = {"prune": "pruned", "revive": "revived", "grow": "grown"}

Say = Callable[[str], None]


def run_plasticity(arguments: RunArguments, say: Say, tables: Callable[[RunRecord], object] | None = None) -> RunRecord:
    """Run the cycle, or go on with a run.

    Args:
        arguments: Arguments of the run.
        say: Called with sentences.
        tables: Writes what else belongs into the folder, before the run says that it is finished.

    Raises:
        InputError: Arguments that cannot be used; nothing is written.
        KeyboardInterrupt: Ctrl-C; what was measured is on disk.
    """
    _spare_threads(arguments)
    if arguments.resume is not None:
        settings = settings_of(arguments.resume)
        return _run(NeuralPlasticityExperiment.resume(arguments.resume, decider_for(settings), say), tables)
    settings = arguments.settings()
    with at_work_in(arguments.output_dir):  # before a model is loaded
        if arguments.output_dir is not None:
            refuse_used(arguments.output_dir)
        return _run(NeuralPlasticityExperiment(settings, arguments.output_dir, decider_for(settings), say), tables)


def _run(run: NeuralPlasticityExperiment, tables: Callable[[RunRecord], object] | None) -> RunRecord:
    if tables is not None:
        write = tables

        def before_finished() -> None:
            write(RunRecord.read(run.folder))

        run.before_finished = before_finished
    return run.run()


def run_comparison(arguments: RunArguments, say: Say) -> tuple[Path, list[ComparisonRow]]:
    """Run all strategies beside each other, or go on with a comparison; returns its folder and rows.

    Raises:
        InputError: Arguments that cannot be used; nothing is written.
        KeyboardInterrupt: Ctrl-C; what was measured is on disk.
    """
    _spare_threads(arguments)
    names = [check_strategy(name) for name in words(arguments.strategies)]
    if len(set(names)) < len(names):
        raise InputError(f"--strategies names one twice: {arguments.strategies!r}")
    if arguments.resume is not None:
        settings = settings_of(arguments.resume / names[0])
        return arguments.resume, compare_strategies(settings, arguments.resume, names, decider_for, say, resume=True)
    folder = arguments.output_dir or new_run_path()
    return folder, compare_strategies(arguments.settings(), folder, names, decider_for, say)


def _spare_threads(arguments: RunArguments) -> None:
    """A quick test's model is too small to share among threads, which on a busy machine wait for each other."""
    if arguments.quick_test:
        torch.set_num_threads(1)


def conclusion(record: RunRecord) -> list[str]:
    """What a run came to, in sentences."""
    found = record.summary
    final, control, baseline = found["final"], found["control"], found["baseline"]
    units = "units" if record.settings.get("mlp_blocks") else "heads"
    said = [
        f"test perplexity {baseline['ppl']:.2f} before anything, {final['ppl']:.2f} at the end, control arm {control['ppl']:.2f}",
        f"{final['active_heads']} {units} ({final['sparsity']:.1%} pruned), {final['flops_kept']:.1%} of the FLOPs",
        "edits: " + ", ".join(f"{found['edits'][edit]} {done}" for edit, done in DONE.items()),
    ]
    for cycle in found["cycles"]:
        back = (
            "pruning cost nothing" if cycle["recovered"] is None else f"{cycle['recovered']:.0%} of its cost recovered"
        )
        said.append(
            f"cycle {cycle['cycle']}: {cycle['analysis']['ppl']:.2f} -> {cycle['pruning']['ppl']:.2f} pruned -> "
            f"{cycle['evaluation']['ppl']:.2f}, {back}"
        )
    return said


def other_strategy(settings: Mapping[str, Any]) -> str | None:
    """What this package would have taken at the same level, in a sentence; None where that was asked for.

    Args:
        settings: Settings of a run, as its record holds them.
    """
    own = ("pruning_strategy", "repair", "growth_init")
    if all(settings.get(name) == QUICK[name] for name in own) or settings.get("pruning_strategy") == CONTROLLER:
        return None
    flags = " ".join(f"--{name} {QUICK[name]}" for name in own)
    return f"{settings.get('pruning_strategy')} chose the heads, as asked; this package's own choice at the same level is {flags}"
