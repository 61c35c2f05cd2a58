"""What removing units for real saves while a model generates: prefill, tokens a second, and bytes of the KV cache.

Units go by Fisher score over the FLOPs that they cost, lowest first over the whole model, without repair. The dense and the
pruned model take turns: one prompt of so many tokens into an empty cache, then token after token, greedily.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plasticity_env.agents.benchmarks.bench_compact import CALIBRATION_TOKENS, blocks_of
from plasticity_env.agents.benchmarks.bench_options import Options, whole_numbers
from plasticity_env.agents.benchmarks.bench_peers import PEER, prune_one_head_per_group, why_not
from plasticity_env.common import cli
from plasticity_env.common.errors import InputError
from plasticity_env.common.stopwatch import ratio, take_turns
from plasticity_env.data.text import TextSplits
from plasticity_env.model.embedded import embedded_models
from plasticity_env.model.flops import flop_table, flops
from plasticity_env.model.loading import LoadedModel, load_model
from plasticity_env.signals.measure import measure


@dataclass(frozen=True)
class DecodeRow:
    """Ratios are medians over the rounds of each round's ratio, with their range; below 1 is faster or smaller.

    Attributes:
        bench, model, mlp_blocks: What was measured; 0 MLP blocks: heads alone are units.
        pruned: "compact", or the name of another tool.
        prompt_tokens, new_tokens: Tokens of the prompt, and of what is generated; one sequence.
        removed_heads, removed_blocks: Units that went.
        flops_ratio: FLOPs of the prompt, pruned / dense.
        prefill_ratio, prefill_range: Seconds of the prompt, pruned / dense.
        decode_ratio, decode_range: Seconds of the new tokens, pruned / dense.
        dense_tokens_s, tokens_s: New tokens a second, of the dense and of the pruned model.
        dense_kv_bytes, kv_bytes: Bytes of the cache after the prompt.
        rounds: Number of rounds.
    """

    bench: str
    model: str
    mlp_blocks: int
    pruned: str
    prompt_tokens: int
    new_tokens: int
    removed_heads: int
    removed_blocks: int
    flops_ratio: float
    prefill_ratio: float
    prefill_range: tuple[float, float]
    decode_ratio: float
    decode_range: tuple[float, float]
    dense_tokens_s: float
    tokens_s: float
    dense_kv_bytes: int
    kv_bytes: int
    rounds: int


class Generation:
    """One model's prompt and greedy continuation, in parts that can be timed.

    Args:
        model: A causal language model of transformers.
        prompt: (1, T) token ids.
        new_tokens: Tokens to generate.
    """

    def __init__(self, model: Any, prompt: Tensor, new_tokens: int) -> None:
        self._model, self._prompt, self._new = model, prompt, new_tokens
        self.tokens: list[int] = []
        self.prefill()

    @torch.no_grad()
    def prefill(self) -> None:
        """Read the prompt into an empty cache."""
        out = self._model(input_ids=self._prompt, use_cache=True)
        self._cache, self._first = out.past_key_values, out.logits[:, -1:].argmax(-1)

    @torch.no_grad()
    def decode(self) -> None:
        """Generate the new tokens, and cut the cache back to the prompt."""
        token, self.tokens = self._first, []
        for _ in range(self._new):
            self.tokens.append(int(token))
            out = self._model(input_ids=token, past_key_values=self._cache, use_cache=True)
            token = out.logits[:, -1:].argmax(-1)
        self._cache.crop(-self._new)

    @property
    def kv_bytes(self) -> int:
        """Bytes of the cache; a layer without heads has none."""
        parts = [part for layer in self._cache.layers for part in (layer.keys, layer.values)]
        return sum(part.numel() * part.element_size() for part in parts if part is not None)


def decode_rows(options: Options) -> Iterator[DecodeRow]:
    """Every model, number of MLP blocks and prompt at every share of the units' FLOPs, then torch-pruning's model.

    Where there is no such row, a line on standard error says why.

    Raises:
        InputError: A share that is not in (0, 1).
    """
    lengths, counts = options.check(), whole_numbers(options.mlp_blocks, "mlp_blocks", 0)
    shares = cli.numbers(options.sparsities, "sparsities")
    if not shares or not all(0 < share < 1 for share in shares):
        raise InputError(f"--sparsities {options.sparsities!r} must be shares between 0 and 1, separated by commas")
    for name in cli.words(options.models) or embedded_models():
        for count in counts:
            loaded = load_model(name, device=options.settings.device, mlp_blocks=count)
            for length in lengths:
                yield from _rows(loaded, options.text(loaded.tokenizer, length), shares, options)


def _rows(loaded: LoadedModel, text: TextSplits, shares: Sequence[float], options: Options) -> Iterator[DecodeRow]:
    model = loaded.model
    ids = blocks_of(text, "calibration", CALIBRATION_TOKENS)
    table = flop_table(model, text.block_size)
    dense = torch.ones(model.shape, dtype=torch.bool)
    fisher = measure(model, ids, batch_size=1, obs=False).fisher
    order = (fisher.double() / table.marginal(dense)).flatten().argsort()
    prompt = blocks_of(text, "test", text.block_size).to(model.device)
    for share in shares:
        count, least = 0, float(table.total(dense)) - share * (float(table.total(dense)) - table.base)
        active = dense.clone()
        while float(table.total(active)) > least and count < len(order):
            active.view(-1)[order[count]] = False
            count += 1
        with_mask = _compacted(loaded, ~active)
        yield _row(loaded, prompt, with_mask, "compact", active, options)
    if model.mlp_blocks:
        return
    reason = why_not(model)
    if reason is not None:
        print(f"{loaded.name}, T = {text.block_size}: no row beside {PEER}: {reason}", file=sys.stderr)
        return
    active = dense.clone()
    active.view(-1)[order[: model.kv_heads * model.shape[0]]] = False
    yield _row(loaded, prompt, _compacted(loaded, ~active), "compact", active, options)
    yield _row(loaded, prompt, prune_one_head_per_group(model, ids), PEER, active, options)


def _compacted(loaded: LoadedModel, gone: Tensor) -> nn.Module:
    model = loaded.model
    model.prune(gone)
    compacted = model.compact().eval()
    model.revive(gone)
    return compacted


def _row(
    loaded: LoadedModel, prompt: Tensor, pruned: nn.Module, name: str, active: Tensor, options: Options
) -> DecodeRow:
    model, tokens, new = loaded.model, prompt.shape[1], options.new_tokens
    ways = {"dense": Generation(model.model, prompt, new), "pruned": Generation(pruned, prompt, new)}
    prefill = take_turns({way: of.prefill for way, of in ways.items()}, options.rounds, model.device, options.clock)
    decode = take_turns({way: of.decode for way, of in ways.items()}, options.rounds, model.device, options.clock)
    gone = ~active
    prefill_ratio, prefill_range = ratio(prefill["pruned"], prefill["dense"])
    decode_ratio, decode_range = ratio(decode["pruned"], decode["dense"])
    return DecodeRow(
        bench="decode",
        model=loaded.name,
        mlp_blocks=model.mlp_blocks,
        pruned=name,
        prompt_tokens=tokens,
        new_tokens=new,
        removed_heads=int(gone[:, : model.heads].sum()),
        removed_blocks=int(gone[:, model.heads :].sum()),
        flops_ratio=flops(pruned, tokens) / flops(model.model, tokens),
        prefill_ratio=prefill_ratio,
        prefill_range=prefill_range,
        decode_ratio=decode_ratio,
        decode_range=decode_range,
        dense_tokens_s=new / statistics.median(decode["dense"]),
        tokens_s=new / statistics.median(decode["pruned"]),
        dense_kv_bytes=ways["dense"].kv_bytes,
        kv_bytes=ways["pruned"].kv_bytes,
        rounds=options.rounds,
    )
