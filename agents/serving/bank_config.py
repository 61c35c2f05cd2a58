"""The arguments of a bank that is fitted to texts in files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from plasticity_env.common.arguments import check_counts
from plasticity_env.common.cli import numbers
from plasticity_env.common.errors import InputError
from plasticity_env.common.values import check_number


@dataclass(frozen=True)
class BankConfig:
    """Arguments of a bank."""

    texts: tuple[str, ...] = ()
    """kinds of text with blanks between, as wiki=a.txt python=b.txt; a text is a .txt, .jsonl or .parquet file, shakespeare, or a
    data set on the hub"""
    model_name: str = "bard-llama-6x8"
    """an embedded name, a Hugging Face folder, a GGUF file, or a hub name"""
    shares: str = "0.3,0.5"
    """shares of the units that structures prune, separated by commas"""
    mlp_blocks: int = 0
    """blocks of MLP neurons a layer that are units beside the heads"""
    blocks: int = 48
    """blocks of each kind of text that structures are fitted on"""
    test_blocks: int = 16
    """blocks of each kind of text that they are measured on"""
    max_length: int = 256
    """tokens a block"""
    sampled: bool = False
    """price units by tokens that the model draws, not by the text's own"""
    output_dir: Path = Path("runs/bank")
    """folder of the bank; a bank that is there is replaced"""
    seed: int = 0
    """draws the blocks"""
    device: str = "auto"
    """device to run on: auto, cpu, cuda, ..."""

    def __post_init__(self) -> None:
        check_counts(self, mlp_blocks=0, blocks=1, test_blocks=1, max_length=2, seed=0)
        if not self.shares_as_numbers:
            raise InputError("--shares names no share: 0.3,0.5 prunes three and five tenths of the units")
        for share in self.shares_as_numbers:
            check_number("shares", share, 0, 1, above=True, below=True)

    @property
    def shares_as_numbers(self) -> tuple[float, ...]:
        """The shares as numbers."""
        return numbers(self.shares, "shares")
