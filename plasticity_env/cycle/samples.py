"""What a model writes: the same prompt, the same draws, at each stage of a run."""

from __future__ import annotations

import torch
from transformers import PreTrainedTokenizerBase

from plasticity_env.model.plastic_model import PlasticModel

PROMPT_TOKENS = 16
TOP_K = 50


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str, test_blocks: torch.Tensor) -> torch.Tensor:
    """(1, n) tokens of a prompt; the first words of the test text where it is empty."""
    if not prompt:
        ids = test_blocks[0]
        return ids[None, : _whole_words(tokenizer, ids, min(PROMPT_TOKENS, len(ids)))]
    words = tokenizer(prompt, add_special_tokens=False)["input_ids"] or [0]
    return torch.tensor([words], dtype=torch.long)  # type: ignore[arg-type]


def write_on(
    model: PlasticModel, tokenizer: PreTrainedTokenizerBase, prompt: torch.Tensor, tokens: int, seed: int
) -> str:
    """What a model writes after a prompt, drawn from its 50 likeliest tokens each time.

    Args:
        model: A model, run with its gates as they are.
        tokenizer: Tokenizer of the model.
        prompt: (1, n) token ids.
        tokens: How many to write; fewer where the model's context ends.
        seed: Equal seeds draw alike, so that texts differ by the models only.
    """
    ids = prompt.to(model.device)
    room = getattr(model.config, "max_position_embeddings", None)
    tokens = tokens if room is None else min(tokens, int(room) - ids.shape[1])
    if tokens < 1:
        return ""
    devices = [model.device] if model.device.type == "cuda" else []
    training = model.model.training
    model.eval()
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(seed)
        written = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            do_sample=True,
            top_k=TOP_K,
            pad_token_id=_pad(tokenizer),
        )
    model.train(training)
    return str(tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True))


def _whole_words(tokenizer: PreTrainedTokenizerBase, ids: torch.Tensor, most: int) -> int:
    """Number of first tokens, at most ``most``, after which a new word begins; ``most`` where the text shows no such place."""
    for count in range(min(most, len(ids) - 1), 0, -1):
        before, after = (str(tokenizer.decode(ids[:stop])) for stop in (count, count + 1))
        if after[len(before) :][:1].isspace() or before[-1:].isspace():
            return count
    return most


def _pad(tokenizer: PreTrainedTokenizerBase) -> int:
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)  # type: ignore[arg-type]
    return 0
