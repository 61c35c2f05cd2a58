"""Probe Pruning: a few hidden states of the text itself run ahead, and each layer loses the heads that matter least to them.

Le et al. 2025, "Probe Pruning: Accelerating LLMs through Dynamic Pruning via Model-Probing" (arXiv 2502.15618). In each layer the
states of largest norm in the residual stream (a share of the text's) run through the attention alone. The squared inputs p of
its output projection are fused with those of calibration text h, h^2 / (h + p) + p^2 / (h + p), channel by channel; a channel
scores its fused value times the root of the summed fourth powers of its weights, a head the sum of its channels. Every layer
loses the same number of heads (the remainder goes to the last layers), and the text runs again on what is left.

The paper prunes channels of the MLP as well, for a batch of texts; here a batch is one text. The history is that of calibration
text, and where ``follow`` is given it follows the stream: what runs moves the channels that were kept. The probe sees the whole
text, as in the paper's prefill; the variant sees only the prefix, which runs dense anyway.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from plasticity_env.agents.studies.dynamic.published.arm_bench import ArmBench, Outcome
from plasticity_env.common.errors import InputError
from plasticity_env.dynamic.fitting import MIXTURE
from plasticity_env.dynamic.text_masks import losses_after
from plasticity_env.model.contexts import evaluating
from plasticity_env.model.layer_stream import hidden_of
from plasticity_env.model.layouts import AttentionBlock, transformer_layers
from plasticity_env.model.plastic_model import PlasticModel

SELECTED = ("position_embeddings", "position_ids", "cache_position")  # arguments with one entry a token


def play_probe(bench: ArmBench, share: float) -> dict[str, Outcome]:
    """The paper's probe of the whole text, and the prefix in its place."""
    setting, model = bench.setting, bench.model
    history = [bench.sums[MIXTURE].statistics.sites[block.index].gram.diagonal().float() for block in model.blocks]
    gone = lost_by_layer(model, share)
    losses, masks = probed(model, bench.ids, history, gone, setting.probe_share, setting.prefix_tokens)
    probe = probe_tokens(setting.max_length, setting.probe_share) * attention_flops(bench)
    found = {"Probe Pruning, heads": bench.outcome(losses, masks, probe, dense_tokens=0)}
    masks = masks_of_prefix(model, bench.ids[:, : setting.prefix_tokens], history, gone)
    found["Probe Pruning, heads, the prefix as the probe"] = bench.outcome(bench.losses(masks), masks)
    return found


def attention_flops(bench: ArmBench) -> float:
    """FLOPs per token of all attention layers, which is what a probe state is billed."""
    dense = torch.ones(bench.model.shape, dtype=torch.bool)
    dense[:, : bench.model.heads] = False
    return bench.dense_flops - float(bench.table.total(dense))


def lost_by_layer(model: PlasticModel, share: float) -> list[int]:
    """How many heads each layer loses: alike in all, the remainder in the last ones, never a whole layer."""
    layers = model.shape[0]
    total = round(share * layers * model.heads)
    each, rest = divmod(total, layers)
    return [min(model.heads - 1, each + (layer >= layers - rest)) for layer in range(layers)]


def probe_tokens(tokens: int, share: float) -> int:
    """How many states of a text are probed: at least two."""
    return min(tokens, max(2, round(share * tokens)))


def fused(history: Tensor, probe: Tensor) -> Tensor:
    """(B, I) squared activations of history (I,) and probe (B, I), each weighted by its own part of their sum."""
    total = (history + probe).clamp(min=1e-12)
    return (history.square() + probe.square()) / total


def head_scores(block: AttentionBlock, energy: Tensor) -> Tensor:
    """(B, H) scores of heads from (B, I) fused squared activations."""
    weight = block.output_weight().float().pow(4).sum(1).sqrt()  # (I,)
    return (energy * weight).unflatten(1, (block.heads, -1)).sum(2)


def kept_heads(scores: Tensor, gone: int) -> Tensor:
    """(B, H) boolean: all but the lowest ones."""
    return scores.argsort(dim=1, stable=True).argsort(dim=1) >= gone


@torch.no_grad()
def masks_of_prefix(model: PlasticModel, ids: Tensor, history: list[Tensor], gone: list[int]) -> Tensor:
    """(n, L, U) masks from what the output projections read on (n, P) dense prefixes."""
    masks = torch.ones(len(ids), *model.shape, dtype=torch.bool)
    with evaluating(model.model), ExitStack() as stack:
        heard = [stack.enter_context(_energy(block)) for block in model.blocks]
        model.model(input_ids=ids.to(model.device), use_cache=False)
    for layer, block in enumerate(model.blocks):
        scores = head_scores(block, fused(history[layer].to(model.device), heard[layer][-1]))
        masks[:, layer, : model.heads] = kept_heads(scores, gone[layer]).cpu()
    return masks


@torch.no_grad()
def probed(
    model: PlasticModel,
    ids: Tensor,
    history: list[Tensor],
    gone: list[int],
    share: float,
    first: int,
    batch_size: int = 16,
    follow: float | None = None,
) -> tuple[Tensor, Tensor]:
    """(n,) losses over the tokens from number ``first`` on, and (n, L, U) masks, of texts that run under what their probes leave.

    Args:
        model: The dense model.
        ids: (n, T) token ids.
        history: (I,) mean squared inputs of each layer's output projection on calibration text.
        gone: Heads that each layer loses.
        share: Share of a text's states that are probed.
        first: Number of the first token that counts.
        batch_size: Texts in one pass; each has its own probe and mask.
        follow: Share of its past that the history keeps at each text, which has to run alone (``batch_size=1``); the tensors
            of ``history`` are changed in place. None leaves it as it is.
    """
    losses, masks = [], []
    for chunk in ids.split(batch_size):
        batch, mask = chunk.to(model.device), torch.ones(len(chunk), *model.shape, dtype=torch.bool)
        with evaluating(model.model), ExitStack() as stack:
            probes = []
            for layer, block in zip(transformer_layers(model.model), model.blocks, strict=True):
                probes.append(_LayerProbe(block, history[block.layer].to(model.device), gone[block.layer], share, mask))
                stack.enter_context(probes[-1].at(layer))
            losses.append(losses_after(model, batch, first).cpu())
        for probe, past in zip(probes, history, strict=True):
            if follow is not None:
                kept, energy = probe.ran()
                past.copy_(torch.where(kept, follow * past + (1 - follow) * energy, past))
        masks.append(mask)
    return torch.cat(losses), torch.cat(masks)


class _LayerProbe:
    """Runs the probe of one layer just before its attention, and prunes the heads of each text.

    Args:
        block: Attention of the layer.
        history, gone, share: As for `probed`.
        mask: (B, L, U) to note what stays in.
    """

    def __init__(self, block: AttentionBlock, history: Tensor, gone: int, share: float, mask: Tensor) -> None:
        self._block, self._history, self._gone, self._share, self._mask = block, history, gone, share, mask
        self._residual: Tensor | None = None
        self._kept: Tensor | None = None  # (B, 1, I); None while the probe itself runs
        self._energy: Tensor | None = None  # (B, I)

    @contextmanager
    def at(self, layer: nn.Module) -> Iterator[None]:
        """Probe in the forwards inside."""
        hooks = [
            layer.register_forward_pre_hook(self._enter, with_kwargs=True),
            self._block.module.register_forward_pre_hook(self._probe, with_kwargs=True),
            self._block.output.register_forward_pre_hook(self._prune),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def ran(self) -> tuple[Tensor, Tensor]:
        """(I,) which channels were kept, and their mean squared inputs, of the only text of the last forward."""
        assert self._kept is not None
        assert self._energy is not None
        return self._kept[0, 0].cpu(), self._energy[0].cpu()

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._residual, self._kept = args[0] if args else kwargs["hidden_states"], None

    def _probe(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._residual is None:
            return  # the probe itself
        residual, self._residual = self._residual, None
        states = args[0] if args else kwargs["hidden_states"]  # (B, T, E) after the norm
        count = probe_tokens(states.shape[1], self._share)
        places = residual.float().norm(dim=2).topk(count, dim=1).indices.sort(1).values  # (B, r)
        kwargs = {name: value for name, value in kwargs.items() if name != "hidden_states"}
        for name in SELECTED:
            if kwargs.get(name) is not None:
                kwargs[name] = _selected(kwargs[name], places)
        kwargs |= {"attention_mask": None, "past_key_values": None}
        with _energy(self._block) as heard:
            hidden_of(module(_selected(states, places), *args[1:], **kwargs))
        scores = head_scores(self._block, fused(self._history, heard[-1]))
        kept = kept_heads(scores, self._gone)
        self._mask[:, self._block.layer, : self._block.heads] = kept.cpu()
        self._kept = kept.repeat_interleave(self._block.unit_width, 1)[:, None]  # (B, 1, I)

    def _prune(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if self._kept is None:
            return None
        (inputs,) = args
        self._energy = inputs.float().square().mean(1)
        return (inputs * self._kept.to(inputs),)


@contextmanager
def _energy(block: AttentionBlock) -> Iterator[list[Tensor]]:
    """(B, I) mean squared inputs of a layer's output projection, forward by forward."""
    found: list[Tensor] = []

    def hear(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        found.append(args[0].float().square().mean(1))

    hook = block.output.register_forward_pre_hook(hear)
    try:
        yield found
    finally:
        hook.remove()


def _selected(value: Any, places: Tensor) -> Any:
    """The (B, r) tokens of what has an entry for each: (B or 1, T, ...) tensors, and tuples of them."""
    if isinstance(value, tuple):
        return tuple(_selected(part, places) for part in value)
    if value.ndim == 1:
        return value[places]
    if value.ndim not in (2, 3):
        raise InputError(f"the probe cannot pick tokens from {tuple(value.shape)}: play it on another architecture")
    rows = value.expand(len(places), *value.shape[1:])
    return rows.gather(1, places if value.ndim == 2 else places[..., None].expand(-1, -1, value.shape[2]))
