"""Training inside the cycle: pruned heads stay as they are, new ones learn at their own rate, runs resume exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from plasticity_env.common.errors import InputError
from plasticity_env.common.interrupts import interrupts_between_steps
from plasticity_env.data.batches import Batches, TokenBatch, as_batches, token_batch
from plasticity_env.data.batches import BlockBatches as BlockBatches
from plasticity_env.data.batches import LoaderBatches as LoaderBatches
from plasticity_env.model.contexts import evaluating
from plasticity_env.model.inputs import check_ids, text_mask_inputs
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.signals.measure import DIVERGED
from plasticity_env.training.distillation import Distillation, not_half
from plasticity_env.training.head_rates import HeadLRManager
from plasticity_env.training.optimizer import get_plasticity_optimizer


@dataclass(frozen=True)
class TrainStep:
    """One optimizer step.

    Attributes:
        step: Its number, from 1 on.
        loss: Next-token negative log-likelihood, nats per token, before the step.
        grad_norm: Norm of the weight gradient of what is minimised, before clipping.
        learning_rate: Learning rate of the optimizer; heads may have a multiple of it.
        distillation: KL(teacher || student) in nats per token; None where logits are not distilled.
        hidden, attention: Relative squared error of the hidden states, and of what attention writes, against the teacher's,
            mean over layers and tokens; None where they are not distilled.
    """

    step: int
    loss: float
    grad_norm: float
    learning_rate: float
    distillation: float | None = None
    hidden: float | None = None
    attention: float | None = None


class PlasticityTrainer:
    """Trains a model between decisions.

    The model trains in evaluation mode (no dropout), so that runs repeat; it comes back in the mode in which it was. Pruned
    heads' weights and moments stay bit-identical; warm-ups advance by one each optimizer step.

    Args:
        model: Trained in place, weights in float32.
        batches: Gives the (B, T) token ids (or a `TokenBatch`) of micro-batch 0, 1, ...; must not depend on when it is asked.
        learning_rate: Learning rate of the AdamW that is made when ``optimizer`` is None.
        optimizer: Optimizer over the model's parameters.
        head_rates: Learning rates of single heads; None leaves all heads the optimizer's.
        accumulation: Micro-batches in one optimizer step, which is that of one batch of all of them: every token counts alike.
        mixed_precision: Forward and backward in bfloat16 where autocast allows it; weights, moments and the loss stay float32.
        distillation: Also learn from a teacher.
        max_grad_norm: Gradients are clipped to this norm; None does not clip.

    Attributes:
        taken: Optimizer steps so far.

    Raises:
        InputError: A value out of range, weights in half precision, or a GPU without bfloat16.
    """

    def __init__(
        self,
        model: PlasticModel,
        batches: Batches,
        *,
        learning_rate: float = 5e-5,
        optimizer: torch.optim.Optimizer | None = None,
        head_rates: HeadLRManager | None = None,
        accumulation: int = 1,
        mixed_precision: bool = False,
        distillation: Distillation | None = None,
        max_grad_norm: float | None = 1.0,
    ) -> None:
        if accumulation < 1:
            raise InputError(f"accumulation must be at least 1, got {accumulation}")
        if max_grad_norm is not None and not max_grad_norm > 0:
            raise InputError(f"max_grad_norm must be above 0, or None to not clip, got {max_grad_norm!r}")
        if model.dtype not in (torch.float32, torch.float64):
            kind = str(model.dtype).removeprefix("torch.")
            raise InputError(
                f"small updates vanish in {kind} weights: train model.float(), with mixed_precision=True if asked"
            )
        on_gpu = model.device.type == "cuda"
        if mixed_precision and on_gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise InputError("mixed_precision wants a GPU that computes in bfloat16: leave it out on this one")
        model.refuse_if_retired()
        if distillation is not None:
            distillation.check(model)
        self.model = model
        self.batches = batches
        self.optimizer = optimizer or get_plasticity_optimizer(model, learning_rate)
        self.head_rates = head_rates
        if head_rates is not None and head_rates.optimizer is None:
            head_rates.optimizer = self.optimizer
        self.accumulation = accumulation
        self.mixed_precision = mixed_precision
        self.distillation = distillation
        self.max_grad_norm = max_grad_norm
        self.taken = 0

    def run(self, steps: int, on_step: Callable[[TrainStep], None] | None = None) -> list[TrainStep]:
        """Take optimizer steps; Ctrl-C waits for the end of one.

        Args:
            steps: How many, 0 or more.
            on_step: Called after each; whatever it raises leaves model and trainer after a whole step.

        Returns:
            One record a step.

        Raises:
            InputError: A loss or gradient that is not finite; the step is not taken.
        """
        done = []
        with evaluating(self.model), torch.enable_grad(), interrupts_between_steps() as check:
            for _ in range(steps):
                done.append(self._step())
                if on_step is not None:
                    on_step(done[-1])
                check()
        return done

    def grown(self, mask: Tensor) -> None:
        """Declare heads new ((L, U) boolean): the optimizer forgets their moments, `head_rates` gives them their rate."""
        self.model.forget_moments(mask, self.optimizer)
        if self.head_rates is not None:
            self.head_rates.mark_new(mask)

    def state_dict(self) -> dict[str, Any]:
        """Everything but the model, in tensors and plain containers: ``torch.load(weights_only=True)`` reads it."""
        rates = None if self.head_rates is None else self.head_rates.state_dict()
        return {"taken": self.taken, "optimizer": self.optimizer.state_dict(), "head_rates": rates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`, on the model that belongs to it (`save_plastic` keeps that), bit for bit.

        Raises:
            InputError: If it belongs to another model, or to a trainer with other head rates.
        """
        if (state["head_rates"] is None) != (self.head_rates is None):
            which = "without" if state["head_rates"] is None else "with"
            raise InputError(f"the saved trainer ran {which} head rates: make this one {which} them too")
        if self.head_rates is not None:
            self.head_rates.load_state_dict(state["head_rates"])
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except (ValueError, KeyError) as error:
            raise InputError(f"the saved trainer's optimizer belongs to another model ({error})") from error
        self.taken = state["taken"]

    def _step(self) -> TrainStep:
        first = self.taken * self.accumulation
        micro = [token_batch(self.batches(first + i)) for i in range(self.accumulation)]
        for batch in micro:
            check_ids(self.model, batch.input_ids)
        tokens = sum(int((batch.targets != -100).sum()) for batch in micro)
        if not tokens:
            raise InputError(f"micro-batch {first} holds nothing to predict: all of it is padding")
        self.optimizer.zero_grad(set_to_none=True)
        loss, away = 0.0, dict.fromkeys(() if self.distillation is None else self.distillation.parts, 0.0)
        for batch in micro:
            nats, differences = self._losses(batch.to(self.model.device))
            objective = nats if self.distillation is None else self.distillation.objective(nats, differences)
            (objective / tokens).backward()
            loss += float(nats.detach()) / tokens
            for part, value in differences.items():
                away[part] += float(value.detach()) / tokens
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.max_grad_norm or math.inf))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self.optimizer.zero_grad(set_to_none=True)
            raise InputError(DIVERGED)
        rate = float(self.optimizer.param_groups[0]["lr"])
        with self.model.frozen_heads(self.optimizer), self._head_rates():
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.model.advance_warmup()
        self.taken += 1
        told = (away.get(part) for part in ("logits", "hidden", "attention"))
        return TrainStep(self.taken, loss, norm, rate, *told)

    def _losses(self, batch: TokenBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Sums over a micro-batch's tokens of the loss and, with a teacher, of the differences from it by part."""
        taught = self.distillation
        ids, mask = batch
        targets = batch.targets  # (B, T)
        extra = text_mask_inputs(self.model, mask)
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.mixed_precision):
            hearing: AbstractContextManager[dict[str, list[Tensor]]] = (
                nullcontext({}) if taught is None else taught.hear(self.model)
            )
            with hearing as heard:
                logits = self.model(input_ids=ids, use_cache=False, **extra).logits  # (B, T, V)
            lesson = None if taught is None else taught.teach(ids, mask)
        nats = F.cross_entropy(not_half(logits).flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum")
        if taught is None or lesson is None:
            return nats, {}
        return nats, taught.differences(logits, heard, lesson, targets != -100)

    @contextmanager
    def _head_rates(self) -> Iterator[None]:
        if self.head_rates is None:
            yield
        else:
            with self.head_rates.scaled():
                yield


def create_plasticity_trainer(
    model: PlasticModel,
    data: Any,
    *,
    learning_rate: float = 5e-5,
    weight_decay: float = 0.01,
    batch_size: int = 8,
    seed: int = 0,
    new_head_multiplier: float = 3.0,
    existing_head_multiplier: float = 1.0,
    rate_warmup_steps: int = 0,
    rate_decay_steps: int | None = 500,
    new_heads: Tensor | None = None,
    accumulation: int = 1,
    mixed_precision: bool = False,
    distillation: Distillation | None = None,
    max_grad_norm: float | None = 1.0,
) -> PlasticityTrainer:
    """A trainer with AdamW and head rates, on text in any form.

    Args:
        model: Trained in place.
        data: (n, T) packed blocks, a data loader, or a function of the micro-batch's number.
        learning_rate, weight_decay: Learning rate and weight decay of AdamW.
        batch_size, seed: For blocks: sequences in a micro-batch, and what fixes their order.
        new_head_multiplier, existing_head_multiplier, rate_warmup_steps, rate_decay_steps: See `HeadLRManager`.
        new_heads: (L, U) boolean, heads that are new from the start.
        accumulation, mixed_precision, distillation, max_grad_norm: See `PlasticityTrainer`.

    Raises:
        InputError: A value that cannot be used.
    """
    optimizer = get_plasticity_optimizer(model, learning_rate, weight_decay)
    rates = HeadLRManager(
        model,
        optimizer,
        new_head_multiplier=new_head_multiplier,
        existing_head_multiplier=existing_head_multiplier,
        warmup_steps=rate_warmup_steps,
        decay_steps=rate_decay_steps,
    )
    if new_heads is not None:
        rates.mark_new(new_heads)
    return PlasticityTrainer(
        model,
        as_batches(data, batch_size, seed),
        optimizer=optimizer,
        head_rates=rates,
        accumulation=accumulation,
        mixed_precision=mixed_precision,
        distillation=distillation,
        max_grad_norm=max_grad_norm,
    )
