"""Prune a model to a share of its FLOPs, heads and MLP blocks together, and let it recover by distillation from the dense one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from plasticity_env.agents.export_config import ExportConfig
from plasticity_env.agents.exporting import prune
from plasticity_env.common.at_work import at_work_on
from plasticity_env.common.errors import InputError
from plasticity_env.envs.settings import Settings
from plasticity_env.model.checkpoints import Checkpoint, is_checkpoint
from plasticity_env.model.flops import flop_table
from plasticity_env.model.loading import LoadedModel, load_model
from plasticity_env.steps.fine_tuning import fine_tune
from plasticity_env.steps.opening import comparison, leave, listed, measured, output_path
from plasticity_env.steps.step_arguments import FineTuneConfig, PruneConfig

MOMENT_BLOCKS = 64
DISTIL = "logits+hidden"


def prune_to_flops(config: PruneConfig) -> tuple[Path, list[str]]:
    """Prune the units that cost least per FLOP until a share of the model's FLOPs is left, repair, and write a checkpoint.

    Args:
        config: Arguments, with ``flops``.

    Returns:
        The checkpoint, and sentences about what was done.

    Raises:
        InputError: Arguments that cannot be used; nothing is written.
    """
    path = output_path(config.output_path, "pruned")
    with at_work_on(path):
        return path, _prune(config, path)


def recover(config: PruneConfig, path: Path) -> list[str]:
    """Train a pruned checkpoint in place on ``config.recovery_tokens`` tokens, by distillation from the dense model.

    Args:
        config: Arguments.
        path: What pruning has written.

    Returns:
        Sentences about what was done.

    Raises:
        KeyboardInterrupt: What was trained until then is written first.
    """
    text = config.text
    steps = max(1, round(config.recovery_tokens / (text.batch_size * text.max_length)))
    learning = FineTuneConfig(
        model_path=str(path),
        output_path=path,
        learning_rate=config.recovery_rate,
        epochs=steps,  # at least one step each: the number of steps decides
        max_steps=steps,
        distillation=1.0,
        distil=DISTIL,
        seed=config.seed,
        device=config.device,
        text=replace(text, dataset="", dataset_config=None),  # as pruning noted it
    )
    return fine_tune(learning)[1]


def _prune(config: PruneConfig, path: Path) -> list[str]:
    if is_checkpoint(config.model_name):
        raise InputError(
            f"--flops starts from a dense model, {config.model_name!r} is a checkpoint: name the dense one, or prune on by "
            "--pruning_level"
        )
    loaded = load_model(config.model_name, device=config.device, mlp_blocks=config.mlp_blocks)
    model = loaded.model
    checkpoint = Checkpoint(loaded, {}, None)
    text = config.text.open(checkpoint)
    name, dataset_config, split = checkpoint.notes["text"]
    test = config.text.test(text)
    spare = max(0, len(text.blocks("calibration")) - config.text.calibration_blocks)
    moments = min(MOMENT_BLOCKS, spare) if config.moment_blocks is None else config.moment_blocks
    settings = Settings(
        model_name=config.model_name,
        dataset=name,
        dataset_config=dataset_config,
        text_split=split,
        batch_size=config.text.batch_size,
        max_length=config.text.max_length,
        units="heads+mlp" if config.mlp_blocks else "heads",
        mlp_blocks=config.mlp_blocks or 8,
        repair=config.repair,
        calibration_blocks=config.text.calibration_blocks,
        moment_blocks=moments,
        reward_blocks=1,
        device=config.device,
    )
    level = _level(loaded, config.flops or 1.0, config.text.max_length)
    export = ExportConfig(
        settings,
        pruning_level=level,
        strategy=config.strategy,
        test_blocks=len(test),
        seed=config.seed,
    )
    before = measured(model, test, config.text.batch_size)
    prune(loaded, export)
    after = measured(model, test, config.text.batch_size)
    result = {"pruned_units": listed(~model.active), "before": before, "after": after}
    leave(checkpoint, path, "prune", config, result)
    gone = ~model.active
    heads, blocks = int(gone[:, : model.heads].sum()), int(gone[:, model.heads :].sum())
    return [
        f"{heads} heads and {blocks} of {model.shape[0] * model.mlp_blocks} blocks of MLP neurons pruned by {export.strategy}, "
        f"repair {config.repair} on {moments or config.text.calibration_blocks} blocks",
        comparison(before, after, len(test)),
    ]


def _level(loaded: LoadedModel, flops: float, tokens: int) -> float:
    """The share of the units' FLOPs that goes where a share of the model's stays.

    Raises:
        InputError: The rest of the model takes more than that.
    """
    table = flop_table(loaded.model, tokens)
    whole = table.total(torch.ones(loaded.model.shape, dtype=torch.bool))
    level = (1 - flops) * whole / (whole - table.base)
    if level >= 1:
        rest = f"{table.base / whole:.1%} of the FLOPs of {loaded.name!r} belong to no unit that may go"
        raise InputError(f"--flops {flops:g} cannot be reached: {rest}")
    return float(level)
