"""The tokenizer that all models of the zoo share: byte-level BPE, learnt from the train split alone."""

from __future__ import annotations

from typing import Final

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from plasticity_env.agents.pretraining.corpus import SEPARATOR

VOCABULARY_SIZE: Final = 1024
CONTEXT_LENGTH: Final = 512


def train_tokenizer(text: str, size: int = VOCABULARY_SIZE) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE of `size` tokens; every byte has a token, so any text can be encoded."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[SEPARATOR],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.split(SEPARATOR), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SEPARATOR,
        eos_token=SEPARATOR,
        unk_token=SEPARATOR,
        pad_token=SEPARATOR,
        model_max_length=CONTEXT_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> Tensor:
    """Token ids of a whole split as one row, shape (N,), dtype int64."""
    return torch.tensor(tokenizer(text, verbose=False)["input_ids"], dtype=torch.int64)


def pack(tokens: Tensor, length: int) -> Tensor:
    """Cut (N,) tokens into full blocks, (N // length, length); the rest is dropped, nothing is padded."""
    blocks = tokens.numel() // length
    return tokens[: blocks * length].view(blocks, length)


def bytes_per_token(tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """Bytes of text that each token stands for, shape (V,): in the byte-level alphabet a character is a byte."""
    return torch.tensor([len(token) for token in tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))])
