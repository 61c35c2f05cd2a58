"""Score x repair: perplexity after pruning shares of a model's heads, over draws of calibration text.

python scripts/study_repair.py --model_name bard-gpt2-6x8 --dataset shakespeare --max_length 128
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from plasticity_env import cli
from plasticity_env.errors import InputError
from plasticity_env.loading import load_model
from plasticity_env.repair import REPAIRS
from plasticity_env.repair.study import SCORES, Study, read_cells, run_study, table
from plasticity_env.text import load_text


@dataclass(frozen=True)
class Config:
    """Arguments."""

    model_name: str = "bard-gpt2-6x8"
    """an embedded name, a folder, a GGUF file or a hub name"""
    dataset: str = "shakespeare"
    """text: shakespeare, a path, or a hub data set"""
    scores: str = ",".join(SCORES)
    """scores, separated by commas"""
    repairs: str = ",".join(REPAIRS)
    """repairs, separated by commas"""
    sparsities: str = "0.1,0.2,0.3,0.4,0.5"
    """shares of heads to prune, separated by commas"""
    rounds: int = 1
    """rounds of measure, prune and parallel least squares over which the pruning is spread"""
    seeds: int = 3
    """draws of calibration text"""
    max_length: int = 128
    """tokens a block"""
    calibration_blocks: int = 16
    """blocks that score and repair"""
    test_blocks: int = 8
    """blocks that are scored"""
    batch_size: int = 8
    """sequences in one pass"""
    device: str = "cpu"
    """cpu, cuda, cuda:0, ..."""
    output: Path = Path("runs/study_repair/cells.jsonl")
    """finished cells, one JSON line each; a second run goes on where the first was cut"""


def main(config: Config) -> None:
    """Play the cells that are missing and print the table of all that the file holds."""
    loaded = load_model(config.model_name, device=config.device)
    text = load_text(config.dataset, loaded.tokenizer, block_size=config.max_length)
    study = Study(text.name, config.max_length, config.calibration_blocks, config.test_blocks, config.batch_size)
    lists = {
        "scores": cli.words(config.scores),
        "repairs": cli.words(config.repairs),
        "shares": list(cli.numbers(config.sparsities, "sparsities")),
    }
    empty = [name for name, values in lists.items() if not values]
    if empty:
        raise InputError(f"--{'sparsities' if empty[0] == 'shares' else empty[0]} is empty: give at least one")
    print(cli.machine(), file=sys.stderr)
    for cell, known in run_study(
        loaded,
        text,
        study,
        config.output,
        seeds=config.seeds,
        rounds=config.rounds,
        **lists,  # type: ignore[arg-type]
    ):
        if not known:
            print(f"{cell.score} {cell.share:g} {cell.repair} seed {cell.seed}: {cell.test_loss:.4f}", file=sys.stderr)
    print(table(c for c in read_cells(config.output) if c.model == loaded.name and c.study == study))


if __name__ == "__main__":
    cli.run(Config, main)
