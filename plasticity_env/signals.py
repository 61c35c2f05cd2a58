"""One pass measures everything: a forward and a backward to the gates only give all the signals of every head.

The signals are those of the pruning literature: gate gradients after Michel et al. 2019 ("Are sixteen heads really
better than one?"), Fisher after Kwon et al. 2022, OBS blocks after Hassibi & Stork 1993 and ZipLM (Kurtic et al. 2023).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from plasticity_env.entropy import Kernel, attend_with_entropy, choose_kernel, visible_lengths
from plasticity_env.errors import InputError
from plasticity_env.layer_stream import replaced
from plasticity_env.model import PlasticModel
from plasticity_env.repair.statistics import Statistics
from plasticity_env.site_sums import SiteSums

_DIVERGED = "the model's loss is not finite: it diverged (lower the learning rate) or its weights are broken"


@dataclass(frozen=True)
class HeadSignals:
    """What one measuring pass saw. All unit tensors are (L, U), float32, on the CPU; a pruned unit is measured too.

    Units are heads, then MLP blocks (which have no attention: their entropy reads 0).

    Attributes:
        loss: Mean next-token negative log-likelihood, nats per token.
        sequence_loss: (B,) the same for each sequence.
        entropy: Attention entropy in nats, mean over queries that see at least two keys.
        entropy_normalized: Entropy divided by the log of the visible length, in [0, 1].
        gate_gradient: Mean over sequences of dL/dgate, signed, nats.
        gradient: Mean over sequences of |dL/dgate| (Michel).
        fisher: Mean over sequences of (dL/dgate)^2.
        magnitude: Frobenius norm of the head's output rows.
        activation: Root mean square over tokens of the norm of what the head writes (its output times its rows).
        obs: Rise of the layer's output error when the head goes and the others make up for it, per token; 0 for a
            pruned head; None when not asked for.
        residual_gradient: Mean over sequences of |dL/ds|, s a shift of the unit along what the other kept units cannot
            predict of it (see `plasticity_env.residual`): the slope of removing it *and* repairing; 0 for a pruned unit;
            None when not asked for.
        residual_fisher: Mean over sequences of (dL/ds)^2; None when not asked for.
        revive: -dL/dgate at gate 0: first-order gain in nats of opening a pruned head; 0 for an active one.
        statistics: Moments of the units' outputs before their gates, as repair wants them; None when not asked for.
        tokens: Positions that counted in them.
        kernel: Which kernel computed attention and its log-sum-exp.
    """

    loss: float
    sequence_loss: Tensor
    entropy: Tensor
    entropy_normalized: Tensor
    gate_gradient: Tensor
    gradient: Tensor
    fisher: Tensor
    magnitude: Tensor
    activation: Tensor
    obs: Tensor | None
    residual_gradient: Tensor | None
    residual_fisher: Tensor | None
    revive: Tensor
    statistics: Statistics | None
    tokens: int
    kernel: Kernel


def measure(
    model: PlasticModel,
    input_ids: Tensor,
    *,
    attention_mask: Tensor | None = None,
    batch_size: int = 8,
    obs: bool = True,
    statistics: bool = False,
    projectors: dict[int, Tensor] | None = None,
) -> HeadSignals:
    """Measure every head of a model on a batch: one forward and one backward, which stops at the gates.

    Args:
        model: Its current gates and weights are what is measured.
        input_ids: (B, T) token ids, T >= 2.
        attention_mask: (B, T), 1 for text and 0 for padding; padding counts nowhere. None when nothing is padded.
        batch_size: Sequences in one pass; the result does not depend on it.
        obs: Also compute the OBS score (one (H*D)^3 factorisation a layer).
        statistics: Also return the moments of the units' outputs.
        projectors: (I, I) of `residual_projector` by site, for the present mask; adds the residual scores.

    Returns:
        The signals.

    Raises:
        InputError: A batch that is empty or shorter than two tokens, or a model whose loss is not finite.
    """
    if input_ids.ndim != 2 or input_ids.shape[0] < 1 or input_ids.shape[1] < 2:
        raise InputError(f"input_ids must be (sequences >= 1, tokens >= 2), got {tuple(input_ids.shape)}")
    gates = model.gates.to(model.device)
    recorder = _Recorder(model, gram=obs or statistics)
    losses, gradients, slopes = [], [], []
    with _frozen(model):
        for start in range(0, len(input_ids), batch_size):
            ids = input_ids[start : start + batch_size].to(model.device)
            padding = None if attention_mask is None else attention_mask[start : start + batch_size].to(model.device)
            leaf = gates.expand(len(ids), *gates.shape).clone().requires_grad_()  # (b, L, U)
            shift = torch.zeros_like(leaf).requires_grad_() if projectors else None  # (b, L, U)
            recorder.begin(padding, len(ids), ids.shape[1], projectors, shift)
            with model.using(leaf, recorder), torch.enable_grad():
                loss = sequence_losses(model, ids, padding)  # (b,)
                found = torch.autograd.grad(loss.sum(), [leaf] if shift is None else [leaf, shift], allow_unused=True)
            losses.append(loss.detach())
            gradients.append(found[0])
            slopes += [slope for slope in found[1:] if slope is not None]
    loss = torch.cat(losses).float().cpu()
    if not bool(torch.isfinite(loss).all()):
        raise InputError(_DIVERGED)
    gradient = torch.cat(gradients).float().cpu()  # (B, L, H)
    signed = gradient.mean(0)
    slope = torch.cat(slopes).float().cpu() if slopes else None  # (B, L, U)
    return HeadSignals(
        loss=float(loss.mean()),
        sequence_loss=loss,
        entropy=recorder.entropy(),
        entropy_normalized=recorder.entropy_normalized(),
        gate_gradient=signed,
        gradient=gradient.abs().mean(0),
        fisher=gradient.square().mean(0),
        magnitude=torch.cat([sums.magnitude() for sums in recorder.sums], 1),
        activation=torch.cat([sums.activation(recorder.tokens) for sums in recorder.sums], 1),
        obs=recorder.obs(model.gates) if obs else None,
        residual_gradient=None if slope is None else slope.abs().mean(0),
        residual_fisher=None if slope is None else slope.square().mean(0),
        revive=torch.where(model.active, 0.0, -signed),
        statistics=recorder.statistics() if statistics else None,
        tokens=recorder.tokens,
        kernel=recorder.kernel,
    )


@torch.no_grad()
def gather(model: PlasticModel, input_ids: Tensor, batch_size: int = 8) -> Statistics:
    """Moments of the units' outputs, before their gates, on (B, T) token ids: one forward without gradients."""
    recorder = _Recorder(model, gram=True)
    with _frozen(model):
        for chunk in input_ids.split(batch_size):
            recorder.begin(None, *chunk.shape)
            head = model.model.get_output_embeddings()  # type: ignore[operator]  # not needed, and dear
            with model.using(model.state.gates, recorder), replaced([head], lambda _: lambda hidden: hidden[..., :1]):
                model.model(input_ids=chunk.to(model.device), use_cache=False)
    return recorder.statistics()


def sequence_losses(model: PlasticModel, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Mean next-token negative log-likelihood of each sequence, in nats.

    Args:
        model: Called with its current gates.
        input_ids: (B, T).
        attention_mask: (B, T) or None; a token counts when it and its predecessor are text.

    Returns:
        (B,) float32, differentiable.
    """
    extra = {} if attention_mask is None else {"attention_mask": attention_mask}
    logits = model.model(input_ids=input_ids, use_cache=False, **extra).logits  # (B, T, V)
    targets = F.pad(input_ids[:, 1:], (0, 1), value=-100)  # the last position predicts nothing; no copy of the logits
    if attention_mask is not None:
        counted = F.pad(attention_mask[:, 1:] * attention_mask[:, :-1], (0, 1))
        targets = targets.masked_fill(counted == 0, -100)
    loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="none")
    return loss.view(targets.shape).sum(1) / (targets != -100).sum(1).clamp(min=1)


@torch.no_grad()
def mean_loss(model: PlasticModel, input_ids: Tensor, batch_size: int = 8) -> float:
    """Mean negative log-likelihood, nats per token, of (B, T) token ids: a forward without gradients."""
    chunks = input_ids.split(batch_size)
    losses = [sequence_losses(model, chunk.to(model.device)) for chunk in chunks]
    loss = float(torch.cat(losses).double().mean())
    if not math.isfinite(loss):
        raise InputError(_DIVERGED)
    return loss


@contextmanager
def _frozen(model: PlasticModel) -> Iterator[None]:
    """Evaluation mode and no gradient for any parameter, so that backward computes none; put back afterwards."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    training = model.training
    model.eval()
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
        model.train(training)


class _Recorder:
    """Attention with its log-sum-exp, and running sums of what the signals need."""

    kernel: Kernel

    def __init__(self, model: PlasticModel, gram: bool) -> None:
        layers, units = model.shape
        device = model.device
        self._heads = model.heads
        self._entropy = torch.zeros(2, layers, units, dtype=torch.float64, device=device)  # nats, normalised
        self._queries = torch.zeros(layers, dtype=torch.float64, device=device)
        self.sums = [SiteSums(model.blocks, model.heads, gram, device)]
        if model.mlp_blocks:
            self.sums.append(SiteSums(model.mlps, model.mlp_blocks, gram, device))
        self.tokens = 0

    def begin(
        self,
        padding: Tensor | None,
        sequences: int,
        tokens: int,
        projectors: dict[int, Tensor] | None = None,
        shift: Tensor | None = None,
    ) -> None:
        """Announce a chunk: its padding mask (b, T) or None, its size, and the leaf that shifts units along residuals."""
        self._padding, self._projectors, self._shift = padding, projectors or {}, shift
        self._lengths: dict[int, tuple[Tensor, Tensor]] = {}
        self.tokens += sequences * tokens if padding is None else int(padding.sum())

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
    ) -> Tensor:
        groups = query.shape[1] // key.shape[1]
        if groups > 1:
            key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        self.kernel = choose_kernel(query, mask)
        out, entropy = attend_with_entropy(query, key, value, mask, scale, self.kernel)  # (b, H, T, D), (b, H, T)
        with torch.no_grad():
            self._note_entropy(layer, entropy, mask)
            self._note_output(layer, out.detach())
        out = out.transpose(1, 2)  # (b, T, H, D)
        return self._shifted(2 * layer, out.flatten(2), slice(0, self._heads)).view(out.shape)

    def _note_entropy(self, layer: int, entropy: Tensor, mask: Tensor | None) -> None:
        key = 0 if mask is None else id(mask)
        if key not in self._lengths:  # layers share masks: count visible keys once
            visible = visible_lengths(mask, entropy.shape[-1], entropy.device)
            counted = (visible > 1).expand(len(entropy), 1, -1) if visible.shape[1] == 1 else visible > 1
            if self._padding is not None:
                counted = counted & self._padding[:, None].bool()
            self._lengths[key] = counted.float(), visible.clamp(min=2).log().float()
        counted, logs = self._lengths[key]
        entropy = entropy.float().clamp(min=0) * counted
        self._entropy[0, layer, : self._heads] += entropy.sum((0, 2), dtype=torch.float32)
        self._entropy[1, layer, : self._heads] += (entropy / logs).sum((0, 2), dtype=torch.float32)
        self._queries[layer] += counted.sum() / counted.shape[1]

    def _note_output(self, layer: int, out: Tensor) -> None:
        rows = out.transpose(1, 2).flatten(2)  # (b, T, H*D)
        self.sums[0].add(layer, self._text_rows(rows))

    def note_mlp(self, layer: int, neurons: Tensor) -> Tensor:
        with torch.no_grad():
            self.sums[1].add(layer, self._text_rows(neurons.detach()))
        return self._shifted(2 * layer + 1, neurons, slice(self._heads, None))

    def _shifted(self, site: int, rows: Tensor, columns: slice) -> Tensor:
        """Add nothing (a zero leaf times each unit's residual), so that the leaf's gradient is the residual's slope."""
        if self._shift is None or site not in self._projectors:
            return rows
        shift = self._shift[:, site // 2, columns]  # (b, u)
        with torch.no_grad():
            residual = rows.float() @ self._projectors[site]  # (.., I); rows of pruned units of P are 0
            residual = residual.view(len(shift), -1, shift.shape[1], rows.shape[-1] // shift.shape[1])
        return rows + (residual * shift[:, None, :, None]).view(rows.shape).to(rows.dtype)

    def _text_rows(self, rows: Tensor) -> Tensor:
        rows = rows.flatten(0, -2)  # (b*T, I)
        return rows if self._padding is None else rows[self._padding.flatten().bool()]

    def obs(self, gates: Tensor) -> Tensor:
        cuts = (gates[:, : self._heads], gates[:, self._heads :])
        return torch.cat([sums.obs(cut, self.tokens) for sums, cut in zip(self.sums, cuts, strict=False)], 1)

    def statistics(self) -> Statistics:
        found = {
            2 * layer + offset: moments
            for offset, sums in enumerate(self.sums)
            for layer, moments in enumerate(sums.moments(self.tokens))
        }
        return Statistics(dict(sorted(found.items())), self.tokens)

    def entropy(self) -> Tensor:
        return (self._entropy[0] / self._queries[:, None]).float().cpu()

    def entropy_normalized(self) -> Tensor:
        return (self._entropy[1] / self._queries[:, None]).float().clamp(0, 1).cpu()
