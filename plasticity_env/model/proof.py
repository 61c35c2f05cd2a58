"""A model proves that wrapping or removal did what it says, on a short probe of random ids.

Wrapping: with open gates the logits are the stock model's, and every layer's gates reach them. Removal: every parameter of
the smaller model holds a value, and its logits are the masked model's. What an architecture does beyond that is refused,
with a sentence that says what it is, instead of being measured wrongly.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from plasticity_env.common.errors import InputError, first_line
from plasticity_env.model.attention import GateState
from plasticity_env.model.layouts import Site, transformer_layers

SEQUENCES, TOKENS = 2, 32
# largest |logits - stock logits| / largest |stock logit|, by the parameters' type: kernels round differently, no more
TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}
# what a stock attention module hands to its attention function and SDPA needs no more than the mask to obey
UNDERSTOOD = {
    *("position_ids", "cache_position", "is_causal", "sliding_window", "use_cache", "position_embeddings"),
    *("output_router_logits", "output_attentions", "output_hidden_states"),
}


def probe_ids(model: nn.Module) -> Tensor:
    """(2, 32) random token ids that the model has rows and positions for, the same each time.

    Raises:
        InputError: Parameters lie on the meta device, as offloaded layers' do.
    """
    refuse_meta(model)
    embedding: Any = model.get_input_embeddings().weight  # type: ignore[operator]
    longest = getattr(model.config, "max_position_embeddings", None) or TOKENS
    shape = (SEQUENCES, max(2, min(TOKENS, int(longest))))
    ids = torch.randint(0, len(embedding), shape, generator=torch.Generator().manual_seed(0))
    return ids.to(embedding.device)


def refuse_meta(model: nn.Module) -> None:
    """Refuse a model some of whose parameters hold no values here.

    Raises:
        InputError: A parameter holds no values.
    """
    missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if missing:
        raise InputError(
            f"{len(missing)} parameters of this model hold no values here ({missing[0]} and others lie on the meta device, as "
            "layers that device_map offloads do): load it whole, without offloading"
        )


def refuse_own_attention(model: nn.Module) -> None:
    """Refuse a model whose attention cannot be replaced, so that no gate could reach it.

    Raises:
        InputError: The attention cannot be replaced.
    """
    can_replace = getattr(type(model), "_can_set_attn_implementation", None)
    if can_replace is not None and not can_replace():
        raise InputError(
            f"{type(model).__name__} computes its attention itself, not through transformers' attention interface, so that no "
            "gate would reach its heads: this architecture is not supported"
        )


@torch.no_grad()
def probe_logits(model: nn.Module, ids: Tensor) -> Tensor:
    """(B, T, V) float32 logits."""
    return model(input_ids=ids, use_cache=False).logits.float()


def prove_gates(model: nn.Module, state: GateState, sites: list[Site], shape: tuple[int, int], stock: Tensor) -> None:
    """Hold a freshly wrapped model against the stock one: one forward, one backward to the gates.

    Args:
        model: The Hugging Face model, its attention already ours.
        state: What its attention reads.
        sites: Projections of the model.
        shape: (L, U).
        stock: Logits on `probe_ids` before the model was wrapped.

    Raises:
        InputError: If its attention is handed something that ours does not know, open gates change its logits, or the
            gates of a layer do not reach them.
    """
    ids = probe_ids(model)
    leaf = torch.ones(shape, device=ids.device, requires_grad=True)
    before, state.gates, state.heard = state.gates, leaf, set()
    kind, failure, logits, returned = type(model).__name__, None, stock, []
    layer = transformer_layers(model)[0]
    hook = layer.register_forward_hook(lambda module, args, output: returned.append(isinstance(output, tuple)))
    try:
        logits = model(input_ids=ids, use_cache=False).logits.float()
    except (ValueError, TypeError, RuntimeError) as error:  # of a kernel that is handed what it does not know
        failure = error
    finally:
        unheard = sorted((state.heard or set()) - UNDERSTOOD)
        state.gates, state.heard = before, None
        hook.remove()
    if unheard:
        raise InputError(
            f"the attention of {kind} is handed {' and '.join(map(repr, unheard))}, which the gated attention does not compute: "
            "this architecture is not supported"
        )
    if failure is not None:
        raise InputError(f"{kind} does not run with gated attention ({first_line(failure)})") from failure
    if returned[0] != sites[0].layout.returns_tuple:
        raise InputError(
            f"a {type(layer).__name__} returns {'a tuple' if returned[0] else 'its hidden states alone'}: register the layout "
            f"with returns_tuple={returned[0]}"
        )
    _compare(
        logits.detach(),
        stock,
        next(model.parameters()).dtype,
        f"{kind} with all gates open differs from the stock model",
        "its attention does more than the layout says",
    )
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)).to(logits)
    (slopes,) = torch.autograd.grad((logits * weights).sum(), [leaf], allow_unused=True)
    for site in sites:
        units = range(shape[1])[site.columns]
        rows = [float(site.output_slice(unit).data.abs().max()) for unit in range(len(units))]
        if not any(rows):
            continue  # nothing to reach, or no units at all
        if slopes is None or not bool(slopes[site.layer, site.columns].any()):
            raise InputError(
                f"the gates of layer {site.layer} do not reach the logits of {kind}: its "
                f"{site.kind} does not run where the layout says (attention has to go "
                "through transformers' attention interface), so nothing would be pruned"
            )


def prove_removal(compacted: nn.Module, masked: Tensor) -> None:
    """Hold a compacted model against the logits that the masked one had on `probe_ids`: one forward.

    Raises:
        InputError: A parameter was left unfilled, or the logits differ.
    """
    refuse_meta(compacted)
    why = "its attention or MLP does something across units (a norm over all heads, say) that cannot be cut"
    what = f"{type(compacted).__name__} does not compute what the masked model computes"
    try:
        logits = probe_logits(compacted, probe_ids(compacted))
    except (ValueError, TypeError, RuntimeError) as error:  # a module that still has the dense size
        raise InputError(f"{what} ({first_line(error)}): {why}") from error
    _compare(logits, masked, next(compacted.parameters()).dtype, what, why)


def _compare(logits: Tensor, wanted: Tensor, dtype: torch.dtype, what: str, why: str) -> None:
    if not bool(torch.isfinite(wanted).all()):
        return  # broken weights are reported where their loss is read
    tolerance = TOLERANCES.get(dtype, 1e-1)
    largest = float(wanted.abs().max())
    difference = float((logits - wanted).abs().max()) / max(largest, 1e-30)
    if not difference <= tolerance:
        raise InputError(f"{what} (logits {difference:.2g} of their size apart on random ids): {why}")
