"""Prune, train, bring back what the loss asks for, evaluate: the plasticity cycle in one call, for notebooks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import asdict
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from plasticity_env.common.errors import InputError
from plasticity_env.data.batches import as_batches
from plasticity_env.functional.functions import (
    apply_pruning_mask,
    calculate_head_gradients,
    evaluate_model,
    generate_pruning_mask,
    read_batches,
)
from plasticity_env.model.modes import PruningMode
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.model.wrapping import as_plastic, plastic_view
from plasticity_env.repair.registry import find_repair
from plasticity_env.repair.whole import repair_model
from plasticity_env.signals.measure import measure
from plasticity_env.strategies.pruning import PRUNING_STRATEGIES, Strategy, find_strategy
from plasticity_env.training.distillation import Distillation
from plasticity_env.training.trainer import PlasticityTrainer, TrainStep, create_plasticity_trainer


def train_with_plasticity(
    model: nn.Module,
    data: Any,
    steps: int = 200,
    *,
    on_step: Callable[[TrainStep], None] | None = None,
    **settings: Any,
) -> list[TrainStep]:
    """Train a model with `create_plasticity_trainer`: pruned heads stay bit-identical, new ones learn at their own rate.

    Args:
        model: A `PlasticModel`, or a Hugging Face causal LM (wrapped for the length of this call); trained in place.
        data: (n, T) packed blocks, a data loader, or a function of the micro-batch's number.
        steps: Optimizer steps, at least 0.
        on_step: Called after each.
        settings: Settings of `create_plasticity_trainer`; new heads' rates decay over ``steps``
            unless ``rate_decay_steps`` is given.

    Returns:
        One record a step.

    Raises:
        InputError: A value that cannot be used, no text, or a loss that is not finite.
    """
    check_steps(steps)
    settings.setdefault("rate_decay_steps", max(1, steps))
    with plastic_view(model) as view:
        return create_plasticity_trainer(view, data, **settings).run(steps, on_step)


def run_plasticity_loop(
    model: nn.Module,
    train_dataloader: Tensor | Iterable[Any],
    eval_dataloader: Tensor | Iterable[Any],
    pruning_level: float = 0.2,
    strategy: str | Strategy = "fisher",
    learning_rate: float = 5e-5,
    training_steps: int = 200,
    *,
    prune_entropy: str = "auto",
    repair: str = "none",
    revival_ratio: float = 0.1,
    calibration_batches: int = 4,
    max_eval_batches: int | None = None,
    control: bool = False,
    distillation: float = 0.0,
    accumulation: int = 1,
    mixed_precision: bool = False,
    batch_size: int = 8,
    seed: int = 0,
    on_step: Callable[[TrainStep], None] | None = None,
) -> dict[str, Any]:
    """Measure, prune, train, halfway revive what the loss asks for, train on, evaluate.

    What chooses heads is measured on the first training batches, never on the evaluation text.

    Args:
        model: A `PlasticModel`, or a Hugging Face causal LM, which is wrapped; edited and trained in place.
        train_dataloader, eval_dataloader: (n, T) packed blocks, or loaders of such batches or of mappings with
            ``input_ids`` and maybe ``attention_mask``. Padding counts nowhere.
        pruning_level: Share of all head slots that is pruned before training, in [0, 1).
        strategy: Name in `strategies.PRUNING_STRATEGIES`, or a strategy.
        learning_rate: Learning rate of AdamW.
        training_steps: Optimizer steps.
        prune_entropy: With strategy ``"entropy"``: ``high``, ``low`` or ``auto``.
        repair: How the heads that stay make up for those that go, before training (`repair.REPAIRS`).
        revival_ratio: At most this share of the pruned heads is revived after half the steps: those whose gate, opened a
            little, lowers the loss most, and only where it does (-dL/dgate > 0 at gate 0). 0 revives none; none is revived
            in compressed mode.
        calibration_batches: Training batches that are measured.
        max_eval_batches: Evaluation batches that are read; None reads all.
        control: Also train an unpruned copy on the same batches.
        distillation: Weight of the divergence from the dense model in what training minimises; 0 does without.
        accumulation, mixed_precision: See `PlasticityTrainer`.
        batch_size, seed: For blocks: sequences in a batch, and what fixes their order; ``seed`` also fixes random choices.
        on_step: Called after each optimizer step.

    Returns:
        ``grad_norm_values`` (L, H) norms of each head's weight gradient before pruning; ``gate_gradient_values`` (L, H) mean
        |dL/dgate| then, which is what strategy ``"gradient"`` ranks by; ``pruned_heads`` and
        ``revived_heads``, lists of (layer, head); ``baseline``, ``pruned`` and ``final`` metrics as `evaluate_model` gives
        them, and ``control`` (None unless asked for); ``training``, one dict a step; ``active`` (L, U); ``model``.

    Raises:
        InputError: A value that cannot be used, or text that is empty; the model is left untouched.
    """
    check_steps(training_steps)
    for name, share in (("revival_ratio", revival_ratio), ("distillation", distillation)):
        if not 0 <= share <= 1:
            raise InputError(f"{name} must lie in [0, 1], got {share!r}")
    find_strategy(PRUNING_STRATEGIES, strategy, "pruning")
    find_repair(repair)
    plastic = as_plastic(model)
    batches = as_batches(train_dataloader, batch_size, seed)
    seen = calibration_text(train_dataloader, batch_size, calibration_batches)
    if not isinstance(eval_dataloader, Tensor):
        eval_dataloader = list(read_batches(eval_dataloader, max_batches=max_eval_batches))

    def evaluate(arm: PlasticModel) -> dict[str, float]:
        return evaluate_model(arm, eval_dataloader, batch_size=batch_size, max_batches=max_eval_batches)

    def trainer(arm: PlasticModel, teacher: Distillation | None) -> PlasticityTrainer:
        return create_plasticity_trainer(
            arm,
            batches,
            learning_rate=learning_rate,
            accumulation=accumulation,
            mixed_precision=mixed_precision,
            distillation=teacher,
        )

    mask = generate_pruning_mask(
        plastic,
        pruning_level,
        strategy,
        data=seen,
        prune_entropy=prune_entropy,  # type: ignore[arg-type]
        batch_size=batch_size,
        generator=torch.Generator().manual_seed(seed),
    )
    teacher = Distillation.from_dense(plastic, weight=distillation) if distillation else None
    result: dict[str, Any] = {
        "grad_norm_values": calculate_head_gradients(plastic, seen, batch_size=batch_size),
        "gate_gradient_values": calculate_head_gradients(plastic, seen, kind="gate", batch_size=batch_size),
        "baseline": evaluate(plastic),
        "control": None,
    }
    if control:
        dense = copy.deepcopy(plastic)
        trainer(dense, teacher).run(training_steps)
        result["control"] = evaluate(dense)
        del dense
    before = plastic.snapshot(weights=False)
    apply_pruning_mask(plastic, mask)
    try:
        repair_model(plastic, repair, seen, batch_size)
    except InputError:
        plastic.restore(before)
        raise
    result["pruned"] = evaluate(plastic)
    learning = trainer(plastic, teacher)
    steps = learning.run(training_steps // 2, on_step)
    revived = torch.zeros_like(mask)
    if training_steps and plastic.mode is PruningMode.ADAPTIVE:
        revived = worth_reviving(plastic, mask, round(revival_ratio * int(mask.sum())), seen, batch_size)
        plastic.revive(revived)
    steps += learning.run(training_steps - training_steps // 2, on_step)
    return result | {
        "final": evaluate(plastic),
        "pruned_heads": [(layer, head) for layer, head in mask.nonzero().tolist()],
        "revived_heads": [(layer, head) for layer, head in revived.nonzero().tolist()],
        "training": [asdict(step) for step in steps],
        "active": plastic.active,
        "model": plastic,
    }


def worth_reviving(
    model: PlasticModel, candidates: Tensor, at_most: int, input_ids: Tensor, batch_size: int = 8
) -> Tensor:
    """The pruned heads whose gate, opened a little, lowers the loss most, where it lowers it at all.

    Args:
        model: Left as it is.
        candidates: (L, U) boolean; of these, the pruned ones.
        at_most: Largest number of heads.
        input_ids: (B, T) calibration text.
        batch_size: Sequences in one pass.

    Returns:
        (L, U) boolean.
    """
    chosen = torch.zeros_like(candidates)
    if at_most < 1:
        return chosen
    gain = measure(model, input_ids, batch_size=batch_size, obs=False).revive
    gain = gain.masked_fill(~(candidates & ~model.active), 0.0)
    best = gain.flatten().topk(at_most).indices
    chosen.view(-1)[best] = gain.flatten()[best] > 0
    return chosen


def calibration_text(data: Tensor | Iterable[Any], batch_size: int, batches: int) -> Tensor:
    """The first batches of some text as full blocks: padding is left out and what it parted is joined.

    Args:
        data: (n, T) blocks, or a loader.
        batch_size: Sequences in a batch of blocks.
        batches: Number of batches.

    Returns:
        (m, T) token ids.

    Raises:
        InputError: There is no full block.
    """
    read = list(islice(read_batches(data, batch_size, batches), batches))
    length = max(batch.input_ids.shape[1] for batch in read)
    kept = [ids if mask is None else ids[mask.bool()] for ids, mask in read]
    tokens = torch.cat([ids.flatten().cpu() for ids in kept])
    blocks = tokens[: len(tokens) // length * length].view(-1, length)
    if not len(blocks):
        raise InputError(
            f"the training text holds {len(tokens)} tokens, less than one block of {length}: use a longer one"
        )
    return blocks


def check_steps(steps: int) -> None:
    """Refuse a number of training steps below 0.

    Raises:
        InputError: The number is below 0.
    """
    if steps < 0:
        raise InputError(f"training steps must be at least 0, got {steps!r}")


__all__ = ["run_plasticity_loop", "train_with_plasticity", "worth_reviving"]
