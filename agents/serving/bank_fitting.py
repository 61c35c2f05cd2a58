"""A bank of texts that lie in files: read, fitted, written, and measured on blocks that the fit has not read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from plasticity_env.agents.serving.bank_config import BankConfig
from plasticity_env.common.errors import InputError
from plasticity_env.common.values import user_path
from plasticity_env.data.text import load_text
from plasticity_env.dynamic.bank import DENSE, DESCRIPTION, StructureBank
from plasticity_env.dynamic.fitting import MIXTURE, build_bank
from plasticity_env.model.loading import check_positions, load_model
from plasticity_env.signals.text_loss import evaluate_model

LABEL = re.compile(r"[A-Za-z][\w.-]*")


def fit_bank(config: BankConfig) -> list[str]:
    """Fit and write a bank.

    Args:
        config: Texts, shares, model and place.

    Returns:
        The lines of a table: what every structure keeps of the FLOPs, and its loss beside the dense model's and the mixture's.

    Raises:
        InputError: Texts that are named wrongly or too short, a place that holds something else, or what the model refuses.
    """
    named = labelled(config.texts)
    place = user_path(config.output_dir, "--output_dir")
    if place.is_dir() and any(place.iterdir()) and not (place / DESCRIPTION).is_file():
        raise InputError(f"--output_dir {str(place)!r} holds something other than a bank: choose another folder")
    loaded = load_model(config.model_name, device=config.device, mlp_blocks=config.mlp_blocks)
    check_positions(loaded, config.max_length)
    drawn = {label: _blocks(label, name, loaded.tokenizer, config) for label, name in named.items()}
    fitted = {label: own for label, (own, _) in drawn.items()}
    bank = build_bank(loaded.model, fitted, config.shares_as_numbers, sampled=config.sampled)
    bank.save(place)
    return report(bank, {label: held_out for label, (_, held_out) in drawn.items()})


def labelled(texts: Sequence[str]) -> dict[str, str]:
    """Names of texts by label, from ``label=name``.

    Raises:
        InputError: Another form, a label twice, or one that structures are called by already.
    """
    found: dict[str, str] = {}
    for entry in texts:
        label, _, name = entry.partition("=")
        if not LABEL.fullmatch(label) or not name:
            raise InputError(
                f"--texts takes label=text, as wiki=a.txt, got {entry!r}: a label begins with a letter and has letters, digits, "
                "'_', '.' and '-'"
            )
        if label in found or label in (MIXTURE, DENSE):
            why = "is there twice" if label in found else "is taken"
            raise InputError(f"the label {label!r} in --texts {why}: choose another")
        found[label] = name
    return found


def _blocks(label: str, name: str, tokenizer: PreTrainedTokenizerBase, config: BankConfig) -> tuple[Tensor, Tensor]:
    """Blocks of a text to fit on, of its calibration split, and to measure on, of its test split."""
    text = load_text(name, tokenizer, block_size=config.max_length)
    for flag, split, wanted in (("blocks", "calibration", config.blocks), ("test_blocks", "test", config.test_blocks)):
        there = len(text.blocks(split))  # type: ignore[arg-type]
        if there < wanted:
            raise InputError(
                f"--{flag} {wanted} is more than the {there} blocks of {config.max_length} tokens in the {split} split of "
                f"{label!r}: ask for fewer, or give a longer text"
            )
    return text.drawn("calibration", config.blocks, config.seed), text.drawn("test", config.test_blocks, config.seed)


def report(bank: StructureBank, held_out: Mapping[str, Tensor]) -> list[str]:
    """A table of a bank on text that it was not fitted on.

    Args:
        bank: A bank with structures of a mixture.
        held_out: (n, T) token ids of each kind of text, by label.

    Returns:
        Its lines: each structure on its own kind of text, the mixture's of the same share beside it; losses in nats a token.
    """
    columns = ("structure", "FLOPs kept", "dense loss", "own loss", "mixture loss")
    seq_len = next(iter(held_out.values())).shape[1]
    flops = bank.flops(seq_len)
    losses = {
        (name, label): _loss(bank, name, ids) for label, ids in held_out.items() for name in _measured(bank, label)
    }
    rows = []
    for number, structure in enumerate(bank):
        if structure.label in held_out:
            mixture = bank[bank.find(MIXTURE, structure.share)].name
            told = [losses[name, structure.label] for name in (DENSE, structure.name, mixture)]
            rows.append([structure.name, f"{flops[number] / flops[0]:.1%}", *(f"{loss:.3f}" for loss in told)])
    widths = [max(len(row[place]) for row in [columns, *rows]) for place in range(len(columns))]
    return ["  ".join(_aligned(row, widths)) for row in [columns, *rows]]


def _measured(bank: StructureBank, label: str) -> list[str]:
    """The structures whose loss on a kind of text the table shows."""
    return [structure.name for structure in bank if structure.label in (label, MIXTURE) or structure.is_dense]


def _loss(bank: StructureBank, name: str, ids: Tensor) -> float:
    bank.install(name)
    try:
        return evaluate_model(bank.model, ids.to(bank.model.device))["loss"]
    finally:
        bank.model.make_dense()


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
