"""A structure for each kind of text against one for all: fitted, and every text run under every structure.

    python -m plasticity_env.agents.studies.dynamic.route_study --model_name M --wikitext valid.txt --shakespeare plays.txt

One draw after another; what a draw has finished is kept, and a second run goes on. ``route_report`` makes the tables.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor

from plasticity_env.agents.studies.dynamic.kinds_of_text import write_kinds
from plasticity_env.common.files import write_text
from plasticity_env.data.text import load_text
from plasticity_env.dynamic.bank import StructureBank
from plasticity_env.dynamic.fitting import MIXTURE, fit_structures
from plasticity_env.dynamic.nearest import FOLDS, NearestTexts, TextDistances, unknown_beyond
from plasticity_env.dynamic.prefix import PrefixReader
from plasticity_env.dynamic.route_table import measure_routes, routed_losses, static_losses
from plasticity_env.dynamic.routed_model import RoutedModel
from plasticity_env.dynamic.token_routes import TokenRoutes
from plasticity_env.model.loading import LoadedModel, load_model
from plasticity_env.signals.text_sums import TextSums, gather_sums

FALSE_ALARMS = (0.01, 0.05)  # of routers that send unknown texts to the mixture
WITHOUT = "others"  # label of mixtures of all kinds but the one held out


@dataclass(frozen=True)
class Options:
    """What is played.

    Attributes:
        model_name: Embedded model, folder or GGUF file.
        wikitext: WikiText-2's validation text.
        shakespeare: A plain text of plays.
        texts: Folder for the kinds of text and for packages that are downloaded.
        output: Folder for banks and tables.
        draws: Seeds of calibration draws, from 0 on.
        blocks: Calibration blocks of each kind.
        test_blocks: Test blocks of each kind, the same in all draws.
        train_blocks: Blocks of each kind that learned routers are trained on.
        max_length: Tokens a block.
        prefix_tokens: Tokens that run dense before a router picks.
        shares: Shares of the heads that go.
        mlp_blocks: MLP blocks a layer; 0: heads only.
        held_out: The kind that a second mixture never saw.
        sampled: Price units by tokens that the model draws.
    """

    model_name: str
    wikitext: Path
    shakespeare: Path
    texts: Path = Path("runs/kinds")
    output: Path = Path("runs/routes")
    draws: int = 3
    blocks: int = 48
    test_blocks: int = 12
    train_blocks: int = 8
    max_length: int = 256
    prefix_tokens: int = 32
    shares: tuple[float, ...] = (0.3, 0.5)
    mlp_blocks: int = 0
    held_out: str = "german"
    sampled: bool = False


def play(options: Options) -> None:
    """Play all draws that are not there yet."""
    paths = write_kinds(options.texts, options.wikitext, options.shakespeare)
    loaded = load_model(options.model_name, mlp_blocks=options.mlp_blocks)
    texts = {path.stem: load_text(path, loaded.tokenizer, block_size=options.max_length) for path in paths}
    test = {kind: text.some("test", options.test_blocks) for kind, text in texts.items()}
    for name in ("test", "train"):  # what is reported first
        for draw in range(options.draws):
            folder, random = options.output / f"draw{draw}", np.random.default_rng(draw)
            calibration = {
                kind: text.blocks("calibration")[text.draw("calibration", options.blocks, random)]
                for kind, text in texts.items()
            }
            bank, mixtures = _banks(options, loaded, calibration, folder)
            blocks = {kind: text.drawn("train", options.train_blocks, draw) for kind, text in texts.items()}
            blocks = test if name == "test" else blocks
            if not (folder / name).is_dir():
                print(f"draw {draw}: {name} texts under {len(bank)} structures", flush=True)
                table = measure_routes(
                    bank,
                    blocks,
                    prefix_tokens=options.prefix_tokens,
                    batch_size=4,
                    model=loaded.name,
                    all_static=False,
                )
                table.save(folder / name)
            if name == "test" and not (folder / "more.json").is_file():
                write_text(folder / "more.json", json.dumps(_more(options, bank, mixtures, test), indent=1) + "\n")


def _banks(
    options: Options, loaded: LoadedModel, calibration: dict[str, Tensor], folder: Path
) -> tuple[StructureBank, StructureBank]:
    """Structures of every kind and of all kinds; and mixtures that are only tested whole, or on the kind that they never saw."""
    model = loaded.model
    if (folder / "mixtures").is_dir():
        return StructureBank.load(folder / "bank", model), StructureBank.load(folder / "mixtures", model)
    bank, mixtures, reader = StructureBank(model), StructureBank(model), PrefixReader(model)
    sums: dict[str, TextSums] = {}
    for kind, ids in calibration.items():
        print(f"{folder.name}: {kind}, {len(ids)} blocks", flush=True)
        sums[kind] = gather_sums(model, ids, sampled=options.sampled, batch_size=4)
        for structure in fit_structures(model, sums[kind], options.shares, options.max_length, kind):
            bank.add(structure)
        bank.prefixes[kind] = reader.read(ids[:, : options.prefix_tokens], 4).pooled.cpu()
    together = _total(list(sums.values()))
    for structure in fit_structures(model, together, options.shares, options.max_length, MIXTURE):
        bank.add(structure)
        with TokenRoutes(model, [structure]).along(torch.zeros_like):
            bank.pruned_prefixes[structure.name] = {
                kind: reader.read(ids[:, : options.prefix_tokens], 4).pooled.cpu() for kind, ids in calibration.items()
            }
    dense = options.prefix_tokens / options.max_length
    equal = tuple(round((1 - dense) * share, 4) for share in options.shares)  # as many FLOPs as with a dense prefix
    others = _total([of for kind, of in sums.items() if kind != options.held_out])
    for of, label in ((together, MIXTURE), (others, WITHOUT)):
        shares = equal if label == MIXTURE else (*options.shares, *equal)
        for structure in fit_structures(model, of, shares, options.max_length, label):
            mixtures.add(structure)
    bank.save(folder / "bank")
    mixtures.save(folder / "mixtures")
    return bank, mixtures


def _total(parts: list[TextSums]) -> TextSums:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _more(
    options: Options, bank: StructureBank, mixtures: StructureBank, test: dict[str, Tensor]
) -> dict[str, list[float]]:
    """Losses text by text: of all texts whole under mixtures, of the kind held out under those that never saw it, and of all
    texts after a prefix under the mixture's structure, under their kind's own structure and under what the router picks."""
    everything, tokens = torch.cat(list(test.values())), options.max_length
    found: dict[str, list[float]] = {}
    costs, with_keys = bank.flops(tokens), bank.flops(tokens, all_keys=True)
    for share in options.shares:
        under = bank.find(MIXTURE, share)
        model = RoutedModel(
            bank, NearestTexts(bank, share, under), prefix_tokens=options.prefix_tokens, prefix_structure=under
        )
        dense = float(costs[0])
        prefix = options.prefix_tokens * float(with_keys[under]) + model.reader.flops
        rest = (tokens - options.prefix_tokens) * sum(float(costs[bank.find(kind, share)]) for kind in test) / len(test)
        found[f"FLOPs@{share:g} after {MIXTURE}"] = [(prefix + rest) / (tokens * dense)]
        for kind, ids in test.items():
            own, picked = bank.find(kind, share), model.router.pick(model.read_prefix(ids))
            losses = {
                number: routed_losses(bank, ids, number, options.prefix_tokens, 4, under)
                for number in {own, *picked.tolist()}
            }
            found.setdefault(f"own@{share:g} after {MIXTURE}", []).extend(losses[own].tolist())
            found.setdefault(f"nearest@{share:g} after {MIXTURE}", []).extend(
                float(losses[number][row]) for row, number in enumerate(picked.tolist())
            )
    found |= _unknown(options, bank, test)
    for number, structure in enumerate(mixtures):
        if structure.label == MIXTURE:
            found[structure.name] = static_losses(mixtures, everything, number, options.prefix_tokens, 4)[0].tolist()
        elif structure.label == WITHOUT:
            ids = test[options.held_out]
            found[structure.name] = static_losses(mixtures, ids, number, options.prefix_tokens, 4)[0].tolist()
            if structure.share in options.shares:
                routed = routed_losses(mixtures, ids, number, options.prefix_tokens, 4)
                found[f"{structure.name} after a dense prefix"] = routed.tolist()
    return found


def _unknown(options: Options, bank: StructureBank, test: dict[str, Tensor]) -> dict[str, list[float]]:
    """What routers pick that send unknown texts to the mixture, and which texts of the kind held out they take for unknown."""
    found: dict[str, list[float]] = {}
    if options.blocks < 2 * FOLDS:
        return found
    reader, held = PrefixReader(bank.model), options.held_out
    view = reader.read(torch.cat(list(test.values()))[:, : options.prefix_tokens], 8)
    prefixes = {kind: rows for kind, rows in bank.prefixes.items() if kind != held}
    distance = TextDistances.of(prefixes).to(reader.read(test[held][:, : options.prefix_tokens], 8)).min(1).values
    for rate in FALSE_ALARMS:
        for share in options.shares:
            picked = NearestTexts(bank, share, false_alarms=rate).pick(view)
            found[f"picks@{share:g}, {rate:g} false alarms"] = picked.tolist()
        found[f"{held} unknown, {rate:g} false alarms"] = (distance > unknown_beyond(prefixes, rate)).float().tolist()
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    play(tyro.cli(Options))
