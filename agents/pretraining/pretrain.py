"""The training loop: fixed number of steps, checkpoints that survive a kill, exact resumption."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor
from torch.nn import functional
from torch.optim import Optimizer
from transformers import PreTrainedModel

from plasticity_env.agents.pretraining.architectures import ZooModel, build_model
from plasticity_env.agents.pretraining.muon import make_optimizers
from plasticity_env.agents.pretraining.recipe import Recipe, batch_at
from plasticity_env.common.files import new_folder

WEIGHTS, STATE = "model.safetensors", "state.pt"


@dataclass(frozen=True)
class Progress:
    """What a run reports after each step; `seconds` is the training time so far, interruptions left out."""

    step: int
    steps: int
    loss: float
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Trained:
    """A finished (or interrupted) run: the model and what it cost."""

    model: PreTrainedModel
    step: int
    steps: int
    tokens: int
    seconds: float


def train_step(
    model: PreTrainedModel,
    optimizers: list[Optimizer],
    batch: Tensor,
    recipe: Recipe,
    factor: float,
) -> float:
    """Update once on a (B, T + 1) batch; returns the loss in nats per token.

    `factor` scales the peak learning rates.
    """
    device = next(model.parameters()).device
    batch = batch.to(device)
    logits = model(batch[:, :-1], use_cache=False).logits  # (B, T, V)
    loss = functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


def prepare(spec: ZooModel, recipe: Recipe, seed: int, device: str) -> tuple[PreTrainedModel, list[Optimizer]]:
    """A fresh model on `device` and its optimizers; each parameter group remembers its peak learning rate."""
    model = build_model(spec, seed)
    model.to(device)  # type: ignore[arg-type]
    model.train()
    optimizers = make_optimizers(model, recipe.matrix_lr, recipe.vector_lr, recipe.weight_decay, recipe.use_muon)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return model, optimizers


def steps_in(minutes: float, spec: ZooModel, recipe: Recipe, tokens: Tensor, device: str, trials: int = 8) -> int:
    """How many steps fit in `minutes` here and now, from the time of a few steps of a throw-away model."""
    model, optimizers = prepare(spec, recipe, seed=0, device=device)
    seconds: list[float] = []
    for i in range(trials + 2):
        batch = batch_at(tokens, recipe, i * 100, trials * 120, seed=0)  # spread over the stages
        start = time.perf_counter()
        train_step(model, optimizers, batch, recipe, factor=1e-3)
        seconds.append(time.perf_counter() - start)
    return max(1, int(minutes * 60 / (sum(seconds[2:]) / trials)))


def save_checkpoint(
    folder: Path,
    model: PreTrainedModel,
    optimizers: list[Optimizer],
    step: int,
    steps: int,
    seconds: float,
    seed: int,
) -> None:
    """Write `step-<n>` under `folder` through a temporary name, then drop the older checkpoints."""
    final = folder / f"step-{step:08d}"
    state = {
        "step": step,
        "steps": steps,
        "seconds": seconds,
        "seed": seed,
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
    }
    with new_folder(final, replace=True) as temporary:
        save_model(model, str(temporary / WEIGHTS))
        torch.save(state, temporary / STATE)
    for old in folder.glob("step-*"):
        if old != final:
            shutil.rmtree(old)


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint under `folder`, or None."""
    return max(folder.glob("step-*"), default=None)


def train(
    spec: ZooModel,
    recipe: Recipe,
    tokens: Tensor,
    steps: int,
    seed: int,
    checkpoints: Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    checkpoint_seconds: float = 60.0,
    stop_after: int | None = None,
    report: Callable[[Progress], None] = lambda _: None,
) -> Trained:
    """Train a model of the zoo, or go on from its last checkpoint.

    Args:
        spec: Description of the model.
        recipe: batch, stages, learning rates.
        tokens: (N,) int64, the train split.
        steps: steps of the whole run; a resumed run keeps the number it was started with.
        seed: decides the initial weights and the batches.
        checkpoints: folder of this run's checkpoints.
        resume: go on from the newest checkpoint there, if there is one.
        device: where to train.
        checkpoint_seconds: time between checkpoints.
        stop_after: write a checkpoint and return after this many steps in all (for tests).
        report: called after every step.

    Returns:
        The model with its step count, tokens seen and training seconds.

    Raises:
        ValueError: when the checkpoint belongs to another seed.
    """
    model, optimizers = prepare(spec, recipe, seed, device)
    first, before = 0, 0.0
    checkpoint = latest_checkpoint(checkpoints) if resume else None
    if checkpoint is not None:
        state = torch.load(checkpoint / STATE, weights_only=True, map_location=device)
        if state["seed"] != seed:
            raise ValueError(f"{checkpoint} was written with seed {state['seed']}; resume with --seed {state['seed']}.")
        load_model(model, str(checkpoint / WEIGHTS), device=device)
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first, steps, before = state["step"], state["steps"], state["seconds"]
    start = last_save = time.perf_counter()
    end = min(steps, stop_after or steps)
    for step in range(first, end):
        batch = batch_at(tokens, recipe, step, steps, seed)
        loss = train_step(model, optimizers, batch, recipe, recipe.factor(step, steps))
        now = time.perf_counter()
        seconds = before + now - start
        report(Progress(step + 1, steps, loss, (step + 1) * recipe.tokens_per_step, seconds))
        if now - last_save > checkpoint_seconds or step + 1 == end:
            save_checkpoint(checkpoints, model, optimizers, step + 1, steps, seconds, seed)
            last_save = now
    done = max(first, end)
    return Trained(model, done, steps, done * recipe.tokens_per_step, before + time.perf_counter() - start)
