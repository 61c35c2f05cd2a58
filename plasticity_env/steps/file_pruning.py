"""First step: prune a model's heads and write it as a checkpoint."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from plasticity_env.common.at_work import at_work_on
from plasticity_env.common.errors import InputError
from plasticity_env.functional.functions import generate_pruning_mask
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.repair.whole import repair_model
from plasticity_env.signals.measure import measure
from plasticity_env.steps.opening import comparison, leave, listed, measured, open_model, output_path
from plasticity_env.steps.step_arguments import PruneConfig
from plasticity_env.strategies.entropy_direction import EntropyTrial, try_entropy_directions

BETTER = "residual_stepwise"  # what costs least on the embedded models


def prune_heads(config: PruneConfig) -> tuple[Path, list[str]]:
    """Prune heads of a model so that a share of all is pruned, repair, and write a checkpoint.

    Args:
        config: Arguments.

    Returns:
        The checkpoint, and sentences about what was done.

    Raises:
        InputError: Arguments that cannot be used; nothing is written.
    """
    path = output_path(config.output_path, "pruned")
    with at_work_on(path):
        return path, _prune(config, path)


def _prune(config: PruneConfig, path: Path) -> list[str]:
    checkpoint = open_model(config.model_name, config.device)
    model = checkpoint.loaded.model
    _refuse_fewer(model, config)
    text = config.text.open(checkpoint)
    test, calibration = config.text.test(text), config.text.calibration(text, config.seed)
    size = config.text.batch_size
    before = measured(model, test, size)
    mask, trial = _choose(model, config, calibration)
    instead = _instead(model, config, calibration, test)
    model.prune(mask)
    unrepaired = measured(model, test, size)
    if bool(mask.any()):
        repair_model(model, config.repair, calibration, size)
    after = measured(model, test, size)
    result = {
        "pruned_heads": listed(mask),
        "direction": (trial.direction if trial else config.prune_entropy) if config.strategy == "entropy" else None,
        "before": before,
        "unrepaired": unrepaired,
        "after": after,
        "instead": None if instead is None else {"strategy": BETTER, **instead},
    }
    leave(checkpoint, path, "prune", config, result)
    slots = model.shape[0] * model.heads
    said = [] if trial is None else [_said_of(trial)]
    said += [
        f"{int(mask.sum())} of {slots} heads pruned by {config.strategy}, repair {config.repair}",
        comparison(before, after, len(test)),
    ]
    if instead is not None:
        said.append(
            f"--strategy {BETTER} would give {instead['perplexity']:.2f} "
            f"({math.expm1(instead['loss'] - before['loss']):+.1%}) at {instead['flops_kept']:.1%} of the FLOPs instead"
        )
    return said


def _instead(model: PlasticModel, config: PruneConfig, calibration: Tensor, test: Tensor) -> dict[str, float] | None:
    """What the same level costs with the strategy that is best here, where entropy was asked for; the model is as before."""
    if config.strategy != "entropy":
        return None
    size = config.text.batch_size
    mask = generate_pruning_mask(
        model,
        config.level,
        BETTER,
        data=calibration,
        batch_size=size,
        generator=torch.Generator().manual_seed(config.seed),
    )
    before = model.snapshot(weights=False)
    try:
        model.prune(mask)
        if bool(mask.any()):
            repair_model(model, config.repair, calibration, size)
        return measured(model, test, size)
    finally:
        model.restore(before)


def _choose(model: PlasticModel, config: PruneConfig, calibration: Tensor) -> tuple[Tensor, EntropyTrial | None]:
    """The heads to prune, (L, U); and what trying both directions of entropy showed, where that was asked for."""
    size, direction, trial = config.text.batch_size, config.prune_entropy, None
    if config.strategy == "entropy" and direction == "auto":
        candidates = model.active
        candidates[:, model.heads :] = False
        wanted = round(config.level * candidates[:, : model.heads].numel()) - _pruned(model)
        count = min(wanted, int(candidates.sum()) - 1)
        signals = measure(model, calibration, batch_size=size, obs=False)
        trial = try_entropy_directions(model, signals, candidates, count, calibration, size)
        direction = trial.direction
    mask = generate_pruning_mask(
        model,
        config.level,
        config.strategy,
        data=calibration,
        prune_entropy=direction,  # type: ignore[arg-type]
        batch_size=size,
        generator=torch.Generator().manual_seed(config.seed),
    )
    return mask, trial


def _said_of(trial: EntropyTrial) -> str:
    return (
        f"{trial.direction} entropy goes first: on calibration text the loss is {trial.high:.3f} nats with the heads of high "
        f"entropy pruned and {trial.low:.3f} with those of low entropy"
    )


def _pruned(model: PlasticModel) -> int:
    return int((~model.active[:, : model.heads]).sum())


def _refuse_fewer(model: PlasticModel, config: PruneConfig) -> None:
    pruned, slots = _pruned(model), model.shape[0] * model.heads
    if round(config.level * slots) < pruned:
        raise InputError(
            f"{config.model_name!r} has {pruned} of {slots} heads pruned already, more than level "
            f"{config.level}: prune more, or bring heads back with scripts/expand_heads.py"
        )
