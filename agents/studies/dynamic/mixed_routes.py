"""The embedded model of four kinds of text: a bank for each calibration draw, and every text under every structure.

    python -m plasticity_env.agents.studies.dynamic.mixed_routes --output runs/mixed

Writes ``draw0/bank``, ``draw0/table`` and so on; what is there stays. ``plasticity train-router`` and ``evaluate-routers``
take the tables with ``--test_share 0.5``: the first half of each kind's texts are of its train split, the others of its test
split.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from plasticity_env.common import cli
from plasticity_env.data.mixed import MIXED
from plasticity_env.data.text import TextSplits, load_text
from plasticity_env.dynamic.bank import StructureBank
from plasticity_env.dynamic.clusters import cluster_bank
from plasticity_env.dynamic.fitting import build_bank
from plasticity_env.dynamic.route_table import measure_routes
from plasticity_env.model.loading import LoadedModel, load_model

CLUSTERS = (2, 4, 6)


@dataclass(frozen=True)
class MixedRoutes:
    """Arguments."""

    output: Path = Path("runs/mixed")
    """folder of banks and tables"""
    model_name: str = "mixed-llama-4x8"
    """embedded name, folder or hub name"""
    draws: int = 3
    """calibration draws, with seeds from 0 on"""
    shares: str = "0.3,0.5"
    """shares of the heads that structures prune, separated by commas"""
    blocks: int = 48
    """calibration blocks of each kind"""
    measured: int = 16
    """train texts and test texts of each kind in a table; the test texts are the same in all draws"""
    max_length: int = 256
    """tokens of a block and of a text"""
    prefix_tokens: int = 32
    """tokens of a text that run dense before a structure is picked"""
    unlabelled: bool = False
    """find the kinds by clustering (2, 4 or 6 of them) instead of being told"""


def play(config: MixedRoutes) -> None:
    """Play all draws that are not there yet."""
    loaded = load_model(config.model_name)
    texts = {MIXED[name]: load_text(name, loaded.tokenizer, block_size=config.max_length) for name in MIXED}
    for draw in range(config.draws):
        folder = config.output / f"draw{draw}"
        bank = _bank(config, loaded, texts, draw, folder / "bank")
        if not (folder / "table").is_dir():
            measured = {
                kind: torch.cat([text.drawn("train", config.measured, draw), text.drawn("test", config.measured, 0)])
                for kind, text in texts.items()
            }
            print(
                f"draw {draw}: {config.measured} train and test texts of each kind under {len(bank)} structures",
                flush=True,
            )
            table = measure_routes(bank, measured, prefix_tokens=config.prefix_tokens, batch_size=16, model=loaded.name)
            table.save(folder / "table")


def _bank(
    config: MixedRoutes, loaded: LoadedModel, texts: dict[str, TextSplits], draw: int, folder: Path
) -> StructureBank:
    if folder.is_dir():
        return StructureBank.load(folder, loaded.model)
    fitted = {kind: text.drawn("calibration", config.blocks, draw) for kind, text in texts.items()}
    shares = cli.numbers(config.shares, "shares")
    if config.unlabelled:
        ids = torch.cat(list(fitted.values()))
        bank = cluster_bank(
            loaded.model, ids, shares, clusters=CLUSTERS, prefix_tokens=config.prefix_tokens, seed=draw, batch_size=16
        )
    else:
        bank = build_bank(loaded.model, fitted, shares, prefix_tokens=config.prefix_tokens)
    bank.pruned_prefixes.clear()  # routers read dense prefixes here; the package's bank stays small
    bank.save(folder)
    return bank


if __name__ == "__main__":
    torch.set_num_threads(1)
    cli.run(MixedRoutes, play)
