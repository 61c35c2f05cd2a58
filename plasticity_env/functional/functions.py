"""The plasticity cycle as plain functions: measure heads, choose some, prune them, evaluate.

All of them take a `PlasticModel` or a plain Hugging Face causal LM, and text as (n, T) token ids or as a data loader whose
batches are such ids or mappings with ``input_ids`` and maybe ``attention_mask``. Padding counts nowhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plasticity_env.common.errors import InputError, unknown
from plasticity_env.model.contexts import evaluating
from plasticity_env.model.layouts import HeadSlice
from plasticity_env.model.modes import PruningMode
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.model.wrapping import as_plastic, plastic_view
from plasticity_env.signals.measure import DIVERGED, measure
from plasticity_env.signals.text_loss import Data, evaluate_model, read_batches, summed_loss
from plasticity_env.signals.weights_entropy import entropy_of_weights
from plasticity_env.strategies.entropy_direction import try_entropy_directions
from plasticity_env.strategies.pruning import (
    PRUNING_STRATEGIES,
    AttentionEntropyStrategy,
    HeadView,
    Strategy,
    find_strategy,
    measure_for,
)

if TYPE_CHECKING:
    from plasticity_env.data.batches import TokenBatch

GRADIENT_KINDS = ("weight", "gate")


def calculate_head_entropy(
    model: nn.Module | Tensor | Sequence[Tensor],
    data: Data | None = None,
    *,
    normalized: bool = False,
    batch_size: int = 8,
    max_batches: int | None = None,
) -> Tensor:
    """Attention entropy of every head, mean over the queries that see at least two keys.

    Args:
        model: Measured as it is; pruned heads are measured too. Or attention weights instead of a model: a sequence of
            (B, H, T, T), one a layer, as a model called with ``output_attentions=True`` returns them; (B, L, H, T, T) as
            `attention_maps` does; or (B, H, T, T) of one layer. All their queries count.
        data: Text, for a model.
        normalized: Divide each query's entropy by the log of how many keys it sees, so that it lies in [0, 1].
        batch_size: Sequences in one pass, where ``data`` are token ids.
        max_batches: Read no more than these.

    Returns:
        (L, H) float32 on the CPU; nats, or a share of the largest possible.

    Raises:
        InputError: An unknown architecture, no text, a model whose loss is not finite, or weights that are no attention.
    """
    if not isinstance(model, nn.Module):
        if data is not None:
            raise InputError("attention weights are measured already: pass data with a model only")
        return entropy_of_weights(model, normalized)
    if data is None:
        raise InputError("a model is measured on text: pass data, (sequences, tokens) or a data loader")
    name = "entropy_normalized" if normalized else "entropy"
    return _mean_signal(model, data, name, batch_size, max_batches)


def calculate_head_gradients(
    model: nn.Module,
    data: Data,
    *,
    kind: Literal["weight", "gate"] = "weight",
    batch_size: int = 8,
    max_batches: int | None = None,
) -> Tensor:
    """How much the loss depends on every head.

    Args:
        model: Measured as it is, in evaluation mode; its own ``.grad`` is not touched.
        data: Text.
        kind: ``"weight"``: norm of the gradient of the mean loss over ``data`` in the head's own weights (its query and
            output rows, and its key and value rows where no other head shares them); 0 for a pruned head, which no
            gradient reaches. ``"gate"``: mean over sequences of |dL/dgate|, which a pruned head has too.
        batch_size: Sequences in one pass, where ``data`` are token ids.
        max_batches: Read no more than these.

    Returns:
        (L, H) float32 on the CPU; nats per unit of weight, or per unit of gate.

    Raises:
        InputError: Another kind, an unknown architecture, no text, or a model whose loss is not finite.
    """
    if kind not in GRADIENT_KINDS:
        raise unknown("kind of head gradient", kind, GRADIENT_KINDS)
    if kind == "gate":
        return _mean_signal(model, data, "gradient", batch_size, max_batches)
    with plastic_view(model) as view:
        return _weight_gradients(view, read_batches(data, batch_size, max_batches))


def generate_pruning_mask(
    source: nn.Module | Tensor | np.ndarray,
    level: float,
    strategy: str | Strategy | None = None,
    *,
    data: Data | None = None,
    active: Tensor | None = None,
    prune: Literal["low", "high"] = "low",
    prune_entropy: Literal["high", "low", "auto"] = "auto",
    batch_size: int = 8,
    max_batches: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Choose heads to prune so that a share of all head slots is pruned afterwards; nothing is edited.

    Args:
        source: A model, whose heads a strategy ranks; or one value a head, (L, H).
        level: Share of all head slots that are pruned afterwards, in [0, 1), rounded to whole heads; heads that are pruned
            already count. One head of the model always stays.
        strategy: With a model: a name in `strategies.PRUNING_STRATEGIES` or a strategy; None is ``"fisher"``. With values:
            the name of what they measure, which says the end that goes first: the end of ``prune_entropy`` for "entropy",
            the lowest for all others but "random", which reads no values.
        data: With a model: calibration text, for strategies that measure.
        active: With values: (L, H) boolean, the heads that are active; None is all.
        prune: With values: whether the lowest or the highest go first.
        prune_entropy: With strategy ``"entropy"``: whether high or low entropy goes first; ``"auto"`` tries both on the text
            and takes the one that harms less (see `plasticity_env.strategies.entropy_direction`).
        batch_size: Sequences in one pass, where ``data`` are token ids.
        max_batches: Read no more than these.
        generator: Source of random choices; seed 0 when None.

    Returns:
        (L, H) boolean, True = prune; (L, U) for a model whose MLP blocks are units too, False for these.

    Raises:
        InputError: A level outside [0, 1), values that are not finite, an unknown name, or no text where some is needed.
    """
    if not 0 <= level < 1:
        raise InputError(f"the pruning level must lie in [0, 1), got {level!r}: 0.2 prunes a fifth of all heads")
    generator = generator or torch.Generator().manual_seed(0)
    if not isinstance(source, nn.Module):
        values = torch.as_tensor(source)
        if strategy is not None:
            values, prune = _named_values(values, strategy, prune, prune_entropy, generator)
        return _mask_of_values(values, level, active, prune)
    chosen = find_strategy(PRUNING_STRATEGIES, "fisher" if strategy is None else strategy, "pruning")
    if strategy == "entropy":
        chosen = AttentionEntropyStrategy(prune_entropy)
    with plastic_view(source) as view, evaluating(view):
        candidates = view.active
        candidates[:, view.heads :] = False
        count = _count(level, view.active[:, : view.heads])
        signals = None
        if chosen.measures and count:
            if data is None:
                raise InputError(f"strategy {chosen.name!r} measures: pass it calibration text (data)")
            ids = _packed(read_batches(data, batch_size, max_batches), chosen.name)
            signals = measure_for(view, chosen, ids, batch_size)
            if isinstance(chosen, AttentionEntropyStrategy) and chosen.direction == "auto" and signals is not None:
                trial = try_entropy_directions(view, signals, candidates, count, ids, batch_size)
                chosen = AttentionEntropyStrategy(trial.direction)
        seen = HeadView(view.active, view.heads, generator, signals)
        return chosen.select(seen, candidates, count) if count else torch.zeros_like(candidates)


def apply_pruning_mask(
    model: nn.Module, mask: Tensor | np.ndarray, mode: str | PruningMode = PruningMode.ADAPTIVE
) -> PlasticModel:
    """Prune the heads where a mask is True; the others stay as they are.

    Args:
        model: A `PlasticModel`, or a Hugging Face causal LM, which is wrapped and edited in place.
        mask: (L, H) boolean, True = prune; (L, U) where MLP blocks are units too.
        mode: Mode of a new wrapper: whether pruned heads may come back.

    Returns:
        The `PlasticModel`: keep it, it alone can revive what it pruned.

    Raises:
        InputError: A mask of another shape or type, or one that leaves no head at all; nothing is changed.
    """
    mask = torch.as_tensor(mask).cpu()
    plastic = as_plastic(model, mode)
    if plastic.mlp_blocks and tuple(mask.shape) == (plastic.shape[0], plastic.heads):
        mask = F.pad(mask, (0, plastic.mlp_blocks))
    plastic.prune(mask)
    return plastic


def _mean_signal(model: nn.Module, data: Data, name: str, batch_size: int, max_batches: int | None) -> Tensor:
    """A signal of `measure` over all batches, weighted by the queries (entropy) or sequences (gradient) it is a mean of."""
    with plastic_view(model) as view, evaluating(view):
        total, weights = torch.zeros(view.shape[0], view.heads, dtype=torch.float64), 0
        for batch in read_batches(data, batch_size, max_batches):
            sequences = len(batch.input_ids)
            found = measure(view, batch.input_ids, attention_mask=batch.attention_mask, batch_size=sequences, obs=False)
            weight = sequences if name == "gradient" else found.tokens - sequences  # first queries see one key
            total += getattr(found, name)[:, : view.heads].double() * weight
            weights += weight
    return (total / max(1, weights)).float()


def _weight_gradients(model: PlasticModel, batches: Iterator[TokenBatch]) -> Tensor:
    own = [[_own_pieces(model, layer, head) for head in range(model.heads)] for layer in range(model.shape[0])]
    parameters = list({id(p.parameter): p.parameter for row in own for pieces in row for p in pieces}.values())
    sums = {id(parameter): torch.zeros_like(parameter, dtype=torch.float32) for parameter in parameters}
    tokens = 0
    with evaluating(model), _only_trainable(model, parameters), torch.enable_grad():
        for batch in batches:
            loss, count = summed_loss(model, batch.to(model.device))
            if not bool(torch.isfinite(loss)):
                raise InputError(DIVERGED)
            gradients = torch.autograd.grad(loss / max(1, count), parameters, allow_unused=True)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    sums[id(parameter)].add_(gradient.float(), alpha=count)
            tokens += count
    norms = torch.zeros(model.shape[0], model.heads)
    for layer, row in enumerate(own):
        for head, pieces in enumerate(row):
            squares = [float(piece.narrow(sums[id(piece.parameter)]).square().sum()) for piece in pieces]
            norms[layer, head] = math.sqrt(sum(squares)) / max(1, tokens)
    return norms


def _own_pieces(model: PlasticModel, layer: int, head: int) -> list[HeadSlice]:
    pieces = model.pieces(layer, head, "unit")
    return pieces + model.pieces(layer, head, "group") if model.blocks[layer].group_size == 1 else pieces


def _mask_of_values(values: Tensor, level: float, active: Tensor | None, prune: str) -> Tensor:
    if prune not in ("low", "high"):
        raise unknown("end of the values to prune", prune, ("low", "high"))
    values = values.detach().cpu().double()
    if values.ndim != 2:
        raise InputError(f"values must be (layers, heads), got {tuple(values.shape)}")
    active = torch.ones(values.shape, dtype=torch.bool) if active is None else torch.as_tensor(active).cpu()
    if active.dtype != torch.bool or active.shape != values.shape:
        raise InputError(f"active must be boolean of shape {tuple(values.shape)}, got {tuple(active.shape)}")
    if not bool(torch.isfinite(values[active]).all()):
        raise InputError("the values of some active heads are not finite, so these heads cannot be ranked")
    order = (values if prune == "low" else -values).masked_fill(~active, torch.inf).flatten().argsort(stable=True)
    mask = torch.zeros(values.numel(), dtype=torch.bool)
    mask[order[: _count(level, active)]] = True
    return mask.view(values.shape)


def _named_values(
    values: Tensor, strategy: str | Strategy, prune: str, prune_entropy: str, generator: torch.Generator
) -> tuple[Tensor, Literal["low", "high"]]:
    """Values by the name of what they measure: what ranks the heads, and which end of it goes."""
    chosen = find_strategy(PRUNING_STRATEGIES, strategy, "pruning")
    if not isinstance(strategy, str) or prune != "low":
        raise InputError("values rank the heads themselves: name what they measure, or set prune='low' | 'high'")
    if chosen.name == "random":
        return torch.rand(values.shape, generator=generator), "low"
    if chosen.name != "entropy":
        return values, "low"
    if prune_entropy not in ("low", "high"):
        raise InputError(
            f"values of entropy cannot tell which end to prune: set prune_entropy='high' or 'low', got {prune_entropy!r} "
            "(which tries both on a model)"
        )
    return values, prune_entropy  # type: ignore[return-value]


def _count(level: float, active: Tensor) -> int:
    """How many more heads to prune, one of the model spared."""
    wanted = min(round(level * active.numel()), active.numel() - 1)
    return max(0, wanted - int((~active).sum()))


def _packed(batches: Iterator[TokenBatch], name: str) -> Tensor:
    found = list(batches)
    if any(batch.attention_mask is not None for batch in found) or len({b.input_ids.shape[1] for b in found}) > 1:
        raise InputError(
            f"strategy {name!r} measures on full blocks of one length: pack the text (plasticity_env.load_text), or rank by "
            "values of calculate_head_gradients"
        )
    return torch.cat([batch.input_ids.cpu() for batch in found])


@contextmanager
def _only_trainable(model: nn.Module, parameters: list[nn.Parameter]) -> Iterator[None]:
    """Gradients for these parameters alone; as before afterwards."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)


__all__ = [
    "Data",
    "apply_pruning_mask",
    "calculate_head_entropy",
    "calculate_head_gradients",
    "evaluate_model",
    "generate_pruning_mask",
    "read_batches",
]
