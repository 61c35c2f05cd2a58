"""The plasticity cycle from the command line: one run, one that goes on, or all strategies beside each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from plasticity_env.agents.cycle_cli.deciding import decider_for
from plasticity_env.common.cli import words
from plasticity_env.common.errors import InputError
from plasticity_env.cycle.experiment import NeuralPlasticityExperiment
from plasticity_env.cycle.record import RunRecord
from plasticity_env.cycle.run_checks import refuse_used, settings_of
from plasticity_env.cycle.run_comparison import ComparisonRow, compare_strategies, table_of
from plasticity_env.cycle.run_settings import ExperimentSettings, check_strategy, new_run_path
from plasticity_env.steps.opening import text_or_default

STRATEGIES = "entropy,gradient,magnitude,random,combined,fisher,controller"
QUICK = {
    "model_name": "bard-gpt2-4x4",
    "dataset": "shakespeare",
    "batch_size": 4,
    "max_length": 64,
    "warmup_steps": 30,
    "stabilisation_window": 5,
    "training_steps": 20,
    "analysis_steps": 4,
    "cycles": 2,
    "growth_warmup_steps": 8,
    "reward_blocks": 16,
    "test_blocks": 16,
    "sample_tokens": 24,
}
Say = Callable[[str], None]


@dataclass(frozen=True)
class RunArguments(ExperimentSettings):
    """Arguments of a run of the plasticity cycle."""

    model_name: str = "distilgpt2"
    """an embedded model, a Hugging Face folder or hub name, or a GGUF file"""
    dataset: str = ""
    """text: shakespeare (tiny_shakespeare is the same), a path, or a hub data set; unset: shakespeare for an embedded model
    and wikitext for any other"""
    dataset_config: str | None = None
    """configuration of a hub data set; unset with wikitext: wikitext-2-raw-v1"""
    quick_test: bool = False
    """other defaults: an embedded model and few steps, under a minute; flags that are given still count"""
    compare_strategies: bool = False
    """run all strategies from one warm-up, with one control arm, and write a table and a chart"""
    strategies: str = STRATEGIES
    """with --compare_strategies: which, separated by commas"""
    output_dir: Path | None = None
    """a new folder; unset: runs/neural_plasticity/run_YYYYMMDD_HHMMSS"""
    resume: Path | None = None
    """go on with the run (or comparison) in this folder; all other flags of the experiment are read from it"""

    def settings(self) -> ExperimentSettings:
        """The experiment's part, with the text filled in where none was named.

        Raises:
            InputError: A value that cannot be used.
        """
        values: dict[str, Any] = {entry.name: getattr(self, entry.name) for entry in fields(ExperimentSettings)}
        values["dataset"], values["dataset_config"] = text_or_default(
            self.model_name, self.dataset, self.dataset_config
        )
        return ExperimentSettings(**values)


def run_plasticity(arguments: RunArguments, say: Say) -> RunRecord:
    """Run the cycle, or go on with a run.

    Raises:
        InputError: Arguments that cannot be used; nothing is written.
        KeyboardInterrupt: Ctrl-C; what was measured is on disk.
    """
    _spare_threads(arguments)
    if arguments.resume is not None:
        settings = settings_of(arguments.resume)
        return NeuralPlasticityExperiment.resume(arguments.resume, decider_for(settings), say).run()
    settings = arguments.settings()
    if arguments.output_dir is not None:
        refuse_used(arguments.output_dir)
    return NeuralPlasticityExperiment(settings, arguments.output_dir, decider_for(settings), say).run()


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
    said = [
        f"test perplexity {baseline['ppl']:.2f} before anything, {final['ppl']:.2f} at the end, control arm {control['ppl']:.2f}",
        f"{final['active_heads']} heads ({final['sparsity']:.1%} pruned), {final['flops_kept']:.1%} of the FLOPs",
        "edits: " + ", ".join(f"{count} {edit}" for edit, count in found["edits"].items()),
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


__all__ = [
    "QUICK",
    "RunArguments",
    "conclusion",
    "run_comparison",
    "run_plasticity",
    "settings_of",
    "table_of",
]
