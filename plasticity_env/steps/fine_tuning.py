"""Third step: train a pruned or expanded checkpoint, new heads at a rate of their own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from plasticity_env.common.arguments import fill, given
from plasticity_env.common.at_work import at_work_on
from plasticity_env.common.errors import InputError
from plasticity_env.common.interrupts import interrupts_between_steps
from plasticity_env.common.progress import Progress
from plasticity_env.data.batches import BlockBatches
from plasticity_env.data.documents import EMBEDDED
from plasticity_env.model.checkpoints import Checkpoint, is_checkpoint
from plasticity_env.model.loading import load_model
from plasticity_env.steps.opening import (
    comparison,
    head_ages,
    leave,
    measured,
    open_checkpoint,
    output_path,
)
from plasticity_env.steps.step_arguments import FineTuneConfig
from plasticity_env.training.distillation import Distillation, distilled_parts
from plasticity_env.training.trainer import PlasticityTrainer, TrainStep, create_plasticity_trainer

_FREE = (
    "device",
    "resume",
    "save_steps",
    "output_path",
    "model_path",
    "model_name",
    "text",
)  # may change when a run goes on


def fine_tune(config: FineTuneConfig) -> tuple[Path, list[str]]:
    """Train a checkpoint, pruned heads kept bit for bit and new ones at their own rate, and write a checkpoint.

    Args:
        config: Arguments.

    Returns:
        The checkpoint, and sentences about what was done.

    Raises:
        InputError: Arguments that cannot be used, or a loss that is not finite (what was trained until then is written).
        KeyboardInterrupt: What was trained until then is written first.
    """
    path = output_path(config.output_path, "fine_tuned")
    with at_work_on(path):
        return path, _fine_tune(config, path)


def _fine_tune(config: FineTuneConfig, path: Path) -> list[str]:
    checkpoint = _open(config, path)
    if checkpoint.training is not None:
        config = _as_before(config, checkpoint.training["settings"])
        taken = ", ".join(
            f"{each.name} {getattr(config, each.name)}" for each in fields(config) if each.name not in _FREE
        )
        print(f"goes on with {taken}", file=sys.stderr)
    model = checkpoint.loaded.model
    text = config.text.open(checkpoint)
    test, size = config.text.test(text), config.text.batch_size
    batches = BlockBatches(text.blocks("train"), size, config.seed)
    steps = max(1, config.epochs * batches.per_epoch // config.accumulation)
    steps = min(steps, config.max_steps or steps)
    settings = json.loads(json.dumps({**asdict(config), "steps": steps}, default=str))
    trainer = _trainer(config, checkpoint, batches, steps)
    run = checkpoint.training
    if run is None:
        run = {"settings": settings, "before": measured(model, test, size), "losses": []}
    else:
        _refuse_other(run["settings"], settings)
        trainer.load_state_dict(run["trainer"])
    new = int(trainer.head_rates.new.sum()) if trainer.head_rates else 0

    def keep(training: bool, **result: Any) -> None:
        ages = trainer.head_rates.ages if trainer.head_rates else head_ages(checkpoint)
        checkpoint.notes["head_ages"] = ages.tolist()
        found = {"steps": trainer.taken, "before": run["before"], "losses": run["losses"], **result}
        state = {**run, "trainer": trainer.state_dict()} if training else None
        leave(checkpoint, path, "fine_tune", config, found, state)

    _train(trainer, steps, run["losses"], config.save_steps, lambda: keep(training=True))
    after = measured(model, test, size)
    keep(training=False, after=after)
    said = [
        f"{steps} steps at {config.learning_rate:g}, training loss {run['losses'][0]:.4f} -> {run['losses'][-1]:.4f}"
    ]
    if new:
        said.append(f"{new} new heads started at {config.new_head_lr_multiplier:g} times that")
    return [*said, comparison(run["before"], after, len(test))]


def _train(
    trainer: PlasticityTrainer, steps: int, losses: list[float], save_steps: int, keep: Callable[[], None]
) -> None:
    """Train up to ``steps``; whatever stops it, what was trained is kept first."""
    with Progress("fine-tuning", total=steps, start=trainer.taken) as progress, interrupts_between_steps() as check:

        def on_step(step: TrainStep) -> None:
            losses.append(step.loss)
            progress.advance(loss=step.loss)
            check()

        try:
            while trainer.taken < steps:
                trainer.run(min(save_steps, steps - trainer.taken), on_step)
                if trainer.taken < steps:
                    keep()
        except (KeyboardInterrupt, InputError):
            if trainer.taken:
                keep()
                print(f"{trainer.taken} of {steps} steps are kept: --resume goes on from there", file=sys.stderr)
            raise


def _open(config: FineTuneConfig, path: Path) -> Checkpoint:
    if not config.resume:
        return replace(open_checkpoint(config.model_path, config.model_name, config.device), training=None)
    kept = open_checkpoint(path, config.model_name, config.device) if is_checkpoint(path) else None
    if kept is None or kept.training is None:
        raise InputError(f"there is no interrupted run at {str(path)!r} to go on with: leave --resume out")
    kept.notes["history"] = kept.notes["history"][:-1]  # the entry of this very run
    return kept


def _trainer(config: FineTuneConfig, checkpoint: Checkpoint, batches: BlockBatches, steps: int) -> PlasticityTrainer:
    trainer = create_plasticity_trainer(
        checkpoint.loaded.model,
        batches,
        learning_rate=config.learning_rate,
        new_head_multiplier=config.new_head_lr_multiplier,
        rate_warmup_steps=config.lr_warmup_steps,
        rate_decay_steps=config.lr_decay_steps or steps,
        accumulation=config.accumulation,
        mixed_precision=config.mixed_precision,
        distillation=_distillation(config, checkpoint),
    )
    assert trainer.head_rates is not None
    trainer.head_rates.ages = head_ages(checkpoint)
    return trainer


def _distillation(config: FineTuneConfig, checkpoint: Checkpoint) -> Distillation | None:
    if not config.distillation:
        return None
    model, name = checkpoint.loaded.model, config.teacher or checkpoint.loaded.name
    teacher = load_model(name, device=config.device).model
    if teacher.config.vocab_size != model.config.vocab_size:
        raise InputError(
            f"teacher {name!r} has {teacher.config.vocab_size} tokens, the model {model.config.vocab_size}: it must be the dense "
            "model itself, or one of its family"
        )
    parts = distilled_parts(config.distil)
    return Distillation(teacher.requires_grad_(False), config.distillation, config.temperature, parts)


def _as_before(config: FineTuneConfig, settings: dict[str, Any]) -> FineTuneConfig:
    """The arguments of a run that goes on: what is at its default is what the interrupted run had."""

    def not_given(part: Any, had: dict[str, Any]) -> dict[str, Any]:
        kept = {entry.name for entry in fields(part) if entry.name not in _FREE and not given(part, entry.name)}
        return {name: value for name, value in had.items() if name in kept and value is not None}

    text = fill(config.text, not_given(config.text, settings["text"]), "the interrupted run")
    return replace(fill(config, not_given(config, settings), "the interrupted run"), text=text)


def _refuse_other(before: dict[str, Any], now: dict[str, Any]) -> None:
    text = before["text"]
    named = text["dataset"] not in (None, "", *EMBEDDED)  # a run that does not say so read such a text from its front
    text = {"text_split": "leading" if named else now["text"]["text_split"], **text, "dataset": text["dataset"] or ""}
    now = now | now["text"]
    for key, value in (before | text).items():
        if key not in _FREE and now.get(key) != value:
            raise InputError(
                f"the interrupted run had {key} {value!r}, not {now.get(key)!r}: resume it with the same value"
            )
