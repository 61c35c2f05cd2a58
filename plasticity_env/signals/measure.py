"""One pass measures everything: a forward and a backward to the gates only give all the signals of every head.

The signals are those of the pruning literature: gate gradients after Michel et al. 2019 ("Are sixteen heads really
better than one?"), Fisher after Kwon et al. 2022, OBS blocks after Hassibi & Stork 1993 and ZipLM (Kurtic et al. 2023),
fluctuation after FLAP (An et al. 2023).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from plasticity_env.common.errors import InputError
from plasticity_env.data.batches import holds_target
from plasticity_env.model.contexts import frozen
from plasticity_env.model.inputs import check_ids, text_mask_inputs
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.model.prefix_reuse import PrefixCache
from plasticity_env.signals.attention_entropy import Kernel
from plasticity_env.signals.batched_model import Projection, projected, weights_of
from plasticity_env.signals.moments import Moments, Statistics
from plasticity_env.signals.packed_signals import PackedSignals
from plasticity_env.signals.recorder import PassOver, SignalRecorder
from plasticity_env.signals.signal import SIGNALS, STANDARD, SWITCHES, Gathered
from plasticity_env.signals.slopes import Projectors

DIVERGED = "the model's loss is not finite: it diverged (lower the learning rate) or its weights are broken"


@dataclass(frozen=True)
class HeadSignals:
    """What one measuring pass saw of a model: ``signals["fisher"]`` or ``signals.fisher`` is (L, U), float32, on the CPU.

    Units are heads, then MLP blocks (which have no attention: their entropy reads 0); a pruned unit is measured too. The
    registry `plasticity_env.signals.signal.SIGNALS` names all signals and how each is computed. As an attribute a registered
    signal that was not asked for is None; by index it is an error.

    Attributes:
        loss: Mean next-token negative log-likelihood, nats per token.
        sequence_loss: (B,) the same for each sequence.
        values: Signals by name.
        statistics: Moments of the units' outputs before their gates, as repair wants them; None when not asked for.
        tokens: Positions that counted in them.
        kernel: Name of the kernel that computed attention and its log-sum-exp.
    """

    loss: float
    sequence_loss: Tensor
    values: Mapping[str, Tensor]
    statistics: Statistics | None
    tokens: int
    kernel: Kernel

    def __getitem__(self, name: str) -> Tensor:
        values = self.values.get(name)
        if values is None:
            signal = SIGNALS.find(name)
            way = SWITCHES.get(signal.needs, f"signals=({name!r},)")
            raise InputError(f"{name!r} was not measured: it needs signals measured with {way}")
        return values

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in SIGNALS:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return self.values.get(name)

    def having(self, **values: Tensor) -> HeadSignals:
        """The same with other values of some signals."""
        return replace(self, values={**self.values, **values})


def measure(
    model: PlasticModel,
    input_ids: Tensor,
    *,
    attention_mask: Tensor | None = None,
    batch_size: int = 8,
    obs: bool = True,
    statistics: bool = False,
    projectors: Projectors | None = None,
    crossfit: tuple[Projectors, Projectors] | None = None,
    signals: Sequence[str] = (),
) -> HeadSignals:
    """Measure every head of a model on a batch: one forward and one backward, which stops at the gates.

    Args:
        model: The model, measured with its current gates and weights.
        input_ids: (B, T) token ids, T >= 2.
        attention_mask: (B, T), 1 for text and 0 for padding, which counts nowhere; a sequence without a token to predict is
            left out. None when nothing is padded.
        batch_size: Sequences in one pass; the result does not depend on it.
        obs: Also compute the OBS score (one (H*D)^3 factorisation a layer).
        statistics: Also return the moments of the units' outputs.
        projectors: (1, I, I) of `residual_projector` by site, for the present mask; adds the residual scores.
        crossfit: Projectors for the first B // 2 sequences, fitted on the others, and for those, fitted on the first; adds the
            cross-fitted residual scores.
        signals: Names of registered signals to measure besides the standard ones.

    Returns:
        The signals.

    Raises:
        InputError: A batch that is empty or shorter than two tokens, or a model whose loss is not finite.
    """
    if input_ids.ndim != 2 or input_ids.shape[0] < 1 or input_ids.shape[1] < 2:
        raise InputError(f"input_ids must be (sequences >= 1, tokens >= 2), got {tuple(input_ids.shape)}")
    check_ids(model, input_ids)
    if attention_mask is not None:
        if attention_mask.shape != input_ids.shape:
            raise InputError(
                f"attention_mask must have the shape of input_ids {tuple(input_ids.shape)}, got {tuple(attention_mask.shape)}"
            )
        text = holds_target(attention_mask)
        if not bool(text.any()):
            raise InputError("the text holds no token to predict: all of it is padding")
        input_ids, attention_mask = input_ids[text], attention_mask[text]
    (found,) = measure_many(
        model,
        input_ids[None],
        model.gates[None],
        attention_mask=attention_mask,
        batch_size=batch_size,
        obs=obs,
        statistics=statistics,
        projectors=projectors,
        crossfit=crossfit,
        signals=signals,
    )
    return found


def measure_many(
    model: PlasticModel,
    input_ids: Tensor,
    gates: Tensor,
    *,
    projections: Mapping[int, Projection] | None = None,
    attention_mask: Tensor | None = None,
    batch_size: int = 8,
    obs: bool = True,
    statistics: bool = False,
    projectors: Projectors | None = None,
    crossfit: tuple[Projectors, Projectors] | None = None,
    held_out: bool = False,
    sampled: bool = False,
    signals: Sequence[str] = (),
) -> list[HeadSignals]:
    """Measure n versions of a model, each on its own text, in passes that carry all of them.

    Args:
        model: The model, whose weights are shared.
        input_ids: (n, B, T) token ids, T >= 2.
        gates: (n, L, U) of each version.
        projections: What versions have in the place of output projections, by site.
        attention_mask: (B, T), 1 for text; None when nothing is padded. Only with one version.
        batch_size: Sequences of each version in one pass.
        obs, statistics: The same as for `measure`.
        projectors: (1, I, I), or (n, I, I) of each version, of `residual_projector` by site.
        crossfit: Two of these, as `measure` takes them.
        held_out: The projectors were fitted on other text, so that residual scores are cross-fitted scores as well.
        sampled: Take slopes of the loss of next tokens that are drawn from the model itself (the true Fisher, which is the
            Hessian of the KL divergence to it), not of the text's own; the losses stay those of the text.
        signals: The same as for `measure`.

    Returns:
        The signals of each.

    Raises:
        InputError: A loss, or its gradient in the gates, is not finite; a signal is unknown or what it needs is not measured.
    """
    gates, projections = gates.to(model.device), projections or {}
    versions, sequences, tokens = input_ids.shape
    on = {
        "",
        *(
            what
            for what, asked in (("obs", obs), ("residual", projectors), ("crossfit", crossfit or held_out))
            if asked
        ),
    }
    for name in signals:
        if (needs := SIGNALS.find(name).needs) not in on:
            raise InputError(f"signal {name!r} needs signals measured with {SWITCHES[needs]}")
    recorder = SignalRecorder(model, obs or statistics, versions, held_out=held_out, one_text=crossfit is None)
    losses, gradients = [], []
    middle = sequences // 2 if crossfit else 0
    with frozen(model), projected(model, projections):
        for start, stop in _chunks(sequences, batch_size, middle):
            ids = input_ids[:, start:stop].flatten(0, 1).to(model.device)  # (n * b, T)
            padding = None if attention_mask is None else attention_mask[start:stop].to(model.device)
            leaf = gates.repeat_interleave(len(ids) // versions, 0).requires_grad_()  # (n * b, L, U)
            along = {"residual": projectors, "crossfit": crossfit[start >= middle] if crossfit else None}
            recorder.begin(padding, len(ids), tokens, {kind: found for kind, found in along.items() if found})
            with model.using(leaf, recorder), torch.enable_grad():
                loss, slope = text_losses(model, ids, padding, sampled)  # (n * b,) each
                found = torch.autograd.grad(slope.sum(), [leaf, recorder.slopes.leaf], allow_unused=True)
            losses.append(loss.detach().unflatten(0, (versions, -1)))
            gradients.append(found[0].unflatten(0, (versions, -1)))
    loss = torch.cat(losses, 1).float().cpu()  # (n, B)
    gradient = torch.cat(gradients, 1).float().cpu()  # (n, B, L, U)
    if not bool(torch.isfinite(loss).all() and torch.isfinite(gradient).all()):
        raise InputError(DIVERGED)
    gathered = Gathered(model, gates, loss, gradient, weights_of(model, projections), recorder)
    wanted = (*(signal.name for signal in STANDARD if signal.needs in on), *signals)
    values = torch.stack([gathered[name] for name in wanted], 1)  # (n, K, L, U)
    moments = recorder.statistics() if statistics else [None] * versions
    return [
        HeadSignals(
            loss=float(loss[index].mean()),
            sequence_loss=loss[index].clone(),
            values=PackedSignals(wanted, values[index].clone()),
            statistics=moments[index],
            tokens=recorder.tokens,
            kernel=recorder.kernel,
        )
        for index in range(versions)
    ]


def _chunks(sequences: int, batch_size: int, middle: int) -> list[tuple[int, int]]:
    """Where passes begin and end: none goes over the middle, on the sides of which projectors differ."""
    return [
        (start, min(start + batch_size, stop))
        for first, stop in ((0, middle), (middle, sequences))
        for start in range(first, stop, batch_size)
    ]


def gather(model: PlasticModel, input_ids: Tensor, batch_size: int = 8) -> Statistics:
    """Moments of the units' outputs, before their gates, on (B, T) token ids: one forward without gradients."""
    return _gather(model, input_ids[None], batch_size).statistics()[0]


@torch.no_grad()
def gather_many(model: PlasticModel, input_ids: Tensor, batch_size: int = 8) -> dict[int, Moments]:
    """The same for n texts, (n, B, T), with ``batch_size`` sequences of each in one pass.

    Returns:
        ``gram`` (n, I, I) and ``mean`` (n, I) of each site.
    """
    return _gather(model, input_ids, batch_size).moments()


def _gather(model: PlasticModel, input_ids: Tensor, batch_size: int) -> SignalRecorder:
    texts, _, tokens = input_ids.shape
    recorder = SignalRecorder(model, gram=True, groups=texts, moments_only=True)
    with frozen(model), model.using(model.state.gates, recorder):
        for chunk in input_ids.split(batch_size, 1):
            ids = chunk.flatten(0, 1).to(model.device)
            recorder.begin(None, len(ids), tokens)
            with suppress(PassOver):
                model.model(input_ids=ids, use_cache=False)
    return recorder


def log_probs(model: PlasticModel, ids: Tensor) -> Tensor:
    """(B, T - 1, V) next-token log-probabilities of the model as it is, for (B, T) token ids."""
    logits = model.model(input_ids=ids.to(model.device), use_cache=False).logits
    return logits[:, :-1].float().log_softmax(-1)


def sequence_losses(model: PlasticModel, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Mean next-token negative log-likelihood of each sequence, in nats.

    Args:
        model: Called with its current gates.
        input_ids: (B, T).
        attention_mask: (B, T) or None; a token counts when it and its predecessor are text.

    Returns:
        (B,) float32, differentiable.
    """
    return text_losses(model, input_ids, attention_mask, False)[0]


def text_losses(
    model: PlasticModel, input_ids: Tensor, attention_mask: Tensor | None, sampled: bool
) -> tuple[Tensor, Tensor]:
    """(B,) losses of the text's own next tokens, and of these or of sampled ones: what slopes are taken of.

    Args:
        model: Called with its current gates.
        input_ids, attention_mask: The same as for `sequence_losses`.
        sampled: Whether the second losses are those of tokens that the model draws.
    """
    extra = text_mask_inputs(model, attention_mask)
    logits = model.model(input_ids=input_ids, use_cache=False, **extra).logits  # (B, T, V)
    targets = F.pad(input_ids[:, 1:], (0, 1), value=-100)  # the last position predicts nothing; no copy of the logits
    if attention_mask is not None:
        counted = F.pad(attention_mask[:, 1:] * attention_mask[:, :-1], (0, 1))
        targets = targets.masked_fill(counted == 0, -100)
    if not sampled:
        loss = _mean_losses(logits, targets)
        return loss, loss
    with torch.no_grad():
        loss = _mean_losses(logits, targets)
        drawn = torch.stack([_drawn(row, ids) for row, ids in zip(logits, input_ids, strict=True)])
    return loss, _mean_losses(logits, drawn.masked_fill(targets == -100, -100))


def _drawn(logits: Tensor, ids: Tensor) -> Tensor:
    """(T,) tokens drawn from (T, V) logits: the same ones whenever the same (T,) text is measured."""
    seed = hashlib.sha256(ids.cpu().numpy().tobytes()).digest()[:7]
    random = torch.Generator(device=logits.device).manual_seed(int.from_bytes(seed))
    return torch.multinomial(logits.float().softmax(-1), 1, generator=random)[:, 0]


def _mean_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """(B,) mean losses over the positions whose target is not -100."""
    loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="none")
    return loss.view(targets.shape).sum(1) / (targets != -100).sum(1).clamp(min=1)


@torch.no_grad()
def mean_loss(
    model: PlasticModel,
    input_ids: Tensor,
    batch_size: int = 8,
    prefix: PrefixCache | None = None,
    batch: Hashable = None,
) -> float:
    """Mean negative log-likelihood, nats per token, of (B, T) token ids: a forward without gradients.

    Args:
        model: Called with its current gates.
        input_ids: (B, T).
        batch_size: Sequences in one pass.
        prefix: Remembered hidden states of this model: reuses what did not change since the last call on the same batch.
        batch: Names the tokens for it.

    Raises:
        InputError: Ids that the model has no row or position for, or a loss that is not finite.
    """
    check_ids(model, input_ids)
    chunks, losses = input_ids.split(batch_size), []
    for number, chunk in enumerate(chunks):
        with nullcontext() if prefix is None else prefix.resumed(batch, number, len(chunks)):
            losses.append(sequence_losses(model, chunk.to(model.device)))
    loss = float(torch.cat(losses).double().mean())
    if not math.isfinite(loss):
        raise InputError(DIVERGED)
    return loss
