"""Sequential repair: layers in order, on statistics of the already pruned stream.

A parallel repair reproduces each layer's dense output from dense inputs, but a pruned model feeds its layers something
else. Here each projection is refitted where its inputs are what the pruned and repaired layers before it really produce,
and its target is the dense projection's output plus the error of the residual stream so far (SlimGPT, FLAP and others
note that such compensation pays at high sparsity).

What reads the stream divides it by its size first (RMSNorm, LayerNorm), so a token's error counts relative to the size of its
stream. Unweighted, a few tokens with massive activations (Sun et al. 2024), a thousand times as large as the rest, decide the
whole regression, and text that lacks them pays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plasticity_env.common.errors import InputError
from plasticity_env.model.contexts import frozen
from plasticity_env.model.inputs import check_text
from plasticity_env.model.layer_stream import LayerCalls, hidden_of, layer_calls
from plasticity_env.model.layouts import Site, SiteKind, transformer_layers
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.repair.methods import least_squares, solve
from plasticity_env.signals.linalg import RIDGE
from plasticity_env.signals.moments import Moments, Statistics

PULLS = (0.03, 0.1, 0.3, 1.0, 3.0, math.inf)  # infinity is the parallel solution itself


@torch.no_grad()
def repair_in_order(
    model: PlasticModel,
    input_ids: Tensor,
    *,
    mlp: bool = False,
    ridge: float = RIDGE,
    pull: float | None = None,
    weighted: bool = True,
    batch_size: int = 8,
) -> None:
    """Repair a model for its present mask, layer after layer.

    Args:
        model: Its active mask is what is repaired for; repairs that it carries are taken back first.
        input_ids: (B, T) calibration text.
        mlp: Also refit the output projection of every MLP behind the first pruned unit.
        ridge: lambda of the parallel solution, as a share of the mean diagonal of the dense second moments.
        pull: Ridge that pulls to the parallel solution, as a share of the mean diagonal of the pruned stream's moments:
            the stream's error is noise to one layer's inputs, and a short text overfits to it without. None: of `PULLS`,
            the one that does best at each site when one half of every chunk is refitted and the other half tests it.
        weighted: Divide a token's row of the regression by the root mean square of the dense model's stream after this layer.
        batch_size: Sequences in one pass.

    Raises:
        InputError: Token ids that the model cannot read, statistics that are not finite, a text too short for the ridge, or a
            model with U-Net skips; it is left as it was.
    """
    if model.skip_flops:
        raise InputError(
            "sequential repair runs layers one by one and U-Net skips join two: call skip.remove() first, or repair in parallel"
        )
    if mlp and not model.mlps:
        raise InputError(
            "this model has no MLP whose output projection could be refitted (a mixture of experts has none)"
        )
    check_text(model, input_ids)
    active = model.active
    if bool(active.all()):
        model.undo_repair()
        return
    first = int((~active).any(1).nonzero()[0, 0])
    widest = max(site.output_weight().shape[0] for site in (model.sites if mlp else model.blocks))
    shape = Moments(torch.zeros(1, 1), torch.zeros(widest))
    Statistics({model.blocks[first].index: shape}, input_ids.numel()).check(ridge)
    with model.repairs_kept_on_failure(), frozen(model):
        model.undo_repair()
        _refit_all(model, first, [*input_ids.split(batch_size)], mlp, ridge, pull, weighted)


def _refit_all(
    model: PlasticModel, first: int, texts: list[Tensor], mlp: bool, ridge: float, pull: float | None, weighted: bool
) -> None:
    """Walk through the layers from the first pruned one on, with the dense and the pruned stream side by side."""
    layers, active = transformer_layers(model.model), model.active
    chunks = [layer_calls(model.model, text.to(model.device)) for text in texts]
    dense = [chunk.hidden for chunk in chunks]
    with model.open_gates():
        for layer in range(first):
            dense = [_run(layers[layer], h, chunk, layer) for h, chunk in zip(dense, chunks, strict=True)]
    pruned = dense
    for layer in range(first, len(layers)):
        with model.open_gates():
            seen = [_watch(layers[layer], h, c, layer, model) for h, c in zip(dense, chunks, strict=True)]
        for site in model.sites_of(layer):
            if not (mlp and site.kind == "mlp") and bool(site.kept_inputs(active).all()):
                continue
            _refit(model, site, layers[layer], dense, pruned, chunks, seen, ridge, pull, weighted)
        pruned = [_run(layers[layer], h, chunk, layer) for h, chunk in zip(pruned, chunks, strict=True)]
        dense = [watched.output for watched in seen]


class _Watched:
    """What one run of a layer showed: inputs and outputs of its two sites, and its output."""

    def __init__(self) -> None:
        self.inputs: dict[SiteKind, Tensor] = {}
        self.outputs: dict[SiteKind, Tensor] = {}
        self.output: Tensor = torch.empty(0)


def _run(module: nn.Module, hidden: Tensor, chunk: LayerCalls, layer: int) -> Tensor:
    args, kwargs = chunk.calls[layer]
    return hidden_of(module(hidden, *args, **kwargs))


def _watch(module: nn.Module, hidden: Tensor, chunk: LayerCalls, layer: int, model: PlasticModel) -> _Watched:
    watched, hooks = _Watched(), []
    for site in model.sites_of(layer):

        def note(module: nn.Module, args: tuple[Tensor, ...], output: Tensor, kind: SiteKind = site.kind) -> None:
            watched.inputs[kind] = args[0].flatten(0, -2)  # (b * T, I), gated
            watched.outputs[kind] = output.flatten(0, -2).clone()  # (b * T, E); Falcon adds to it in place

        hooks.append(site.output.register_forward_hook(note))
    try:
        watched.output = _run(module, hidden, chunk, layer)
    finally:
        for hook in hooks:
            hook.remove()
    return watched


def _refit(
    model: PlasticModel,
    site: Site,
    module: nn.Module,
    dense: list[Tensor],
    pruned: list[Tensor],
    chunks: list[LayerCalls],
    seen: list[_Watched],
    ridge: float,
    pull: float | None,
    weighted: bool,
) -> None:
    """Refit one site: regress the dense output plus the stream's error on what the site reads now."""
    weight = site.output_weight()
    kept = site.kept_inputs(model.active).to(weight.device)
    if not bool(kept.any()):
        return
    width = len(kept)
    before = torch.zeros(width, width, dtype=torch.float64, device=weight.device)  # moments of the dense stream
    halves = [Regression.empty(int(kept.sum()), weight.shape[1], weight.device) for _ in range(2)]
    tokens = 0
    bias = site.output.bias
    for h, p, chunk, was in zip(dense, pruned, chunks, seen, strict=True):
        rows = was.inputs[site.kind].float()
        before += (rows.t() @ rows).double()
        now = _watch(module, p, chunk, site.layer, model)
        target = was.outputs[site.kind].float()
        if not site.normed:  # what is written is added to the stream as it is: make up for its error so far
            target = target + (h - p).flatten(0, -2).float() / site.factor
            if site.kind == "mlp":
                target = target + was.outputs["attention"].float() - now.outputs["attention"].float()
        if bias is not None:
            target = target - bias.data.float()  # type: ignore[union-attr, operator]
        inputs = now.inputs[site.kind][:, kept].float()
        if weighted:
            share = row_weights(was.output)
            inputs, target = inputs * share, target * share
        middle = (len(inputs) + 1) // 2
        halves[0].add(inputs[:middle], target[:middle])
        halves[1].add(inputs[middle:], target[middle:])
        tokens += len(inputs)
    both = halves[0] + halves[1]
    Moments(both.gram, both.wanted).check()
    dense_moments = Moments(before[None] / tokens, before.diagonal()[None])
    parallel = least_squares(weight, dense_moments, kept[None].cpu(), ridge=ridge).weight
    assert parallel is not None
    repaired = parallel[0]
    anchor = repaired[kept].double()
    repaired[kept] = both.solution(anchor, chosen_pull(halves, anchor) if pull is None else pull).to(weight.dtype)
    model.apply_repair(site.index, repaired, None)


def row_weights(stream: Tensor) -> Tensor:
    """(b * T, 1) one over the root mean square of each token of a (b, T, E) stream."""
    return stream.flatten(0, -2).float().square().mean(1, keepdim=True).clamp(min=1e-12).rsqrt()


def chosen_pull(halves: list[Regression], anchor: Tensor) -> float:
    """The ridge of `PULLS` that does best on the half that it was not fitted on, for the whole text: half of it, as the best
    ridge falls with the text's length.

    Args:
        halves: Two regressions, of half of the text each.
        anchor: (S, E) what the solutions are pulled to.
    """
    return min(PULLS, key=lambda pull: sum(a.fit(anchor, pull, b) for a, b in (halves, halves[::-1]))) / 2


@dataclass
class Regression:
    """Sums of a regression of targets on inputs: (S, S) and (S, E), float64."""

    gram: Tensor
    wanted: Tensor

    @classmethod
    def empty(cls, inputs: int, outputs: int, device: torch.device) -> Regression:
        sizes = ((inputs, inputs), (inputs, outputs))
        return cls(*(torch.zeros(size, dtype=torch.float64, device=device) for size in sizes))

    def add(self, inputs: Tensor, targets: Tensor) -> None:
        self.gram += (inputs.t() @ inputs).double()
        self.wanted += (inputs.t() @ targets).double()

    def __add__(self, other: Regression) -> Regression:
        return Regression(self.gram + other.gram, self.wanted + other.wanted)

    def solution(self, anchor: Tensor, pull: float) -> Tensor:
        """(S, E) ridge solution around an anchor."""
        return anchor if math.isinf(pull) else solve(self.gram, self.wanted, anchor, pull)

    def fit(self, anchor: Tensor, pull: float, other: Regression) -> float:
        """Squared error on another half of the text of the solution on this one, up to a constant."""
        rows = self.solution(anchor, pull)
        return float((rows * (other.gram @ rows - 2 * other.wanted)).sum())
