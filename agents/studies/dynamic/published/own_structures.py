"""Our own structures: nearest texts and label oracle, and the mixture's structures for texts from their first token on."""

from __future__ import annotations

from dataclasses import replace

import torch

from plasticity_env.agents.studies.dynamic.published.arm_bench import ArmBench, Outcome
from plasticity_env.dynamic.bank import StructureBank
from plasticity_env.dynamic.fitting import MIXTURE
from plasticity_env.dynamic.nearest import NearestTexts
from plasticity_env.dynamic.route_table import static_losses

STATIC = "static, the mixture's"


def play_static(bench: ArmBench, share: float) -> dict[str, Outcome]:
    """The mixture's structure at a share, which needs no prefix and no router."""
    bank = StructureBank(bench.model, bench.fitted(MIXTURE, (share,)))
    losses, _ = static_losses(bank, bench.ids, 1, bench.setting.prefix_tokens)
    masks = bank[1].active.expand(len(losses), -1, -1)
    return {STATIC: bench.outcome(losses, masks, dense_tokens=0)}


def play_own(bench: ArmBench, share: float) -> dict[str, Outcome]:
    """The structure of the kind whose texts begin most alike, and that of the text's own kind."""
    kinds = [bench.bank.find(kind, share) for kind, ids in bench.test.items() for _ in range(len(ids))]
    nearest = NearestTexts(bench.bank, share).pick(bench.test_prefixes)
    return {
        "nearest texts": bench.played(bench.bank, nearest, distance_flops(bench)),
        "label oracle": bench.played(bench.bank, torch.tensor(kinds), 0.0),
    }


def play_unrepaired(bench: ArmBench, share: float) -> dict[str, Outcome]:
    """The same masks without repair, as most published systems have none; the mixture's runs from the first token."""
    bank = StructureBank(bench.model, [replace(of, mixes={}) for of in list(bench.bank)[1:]], bench.bank.prefixes)
    nearest = NearestTexts(bank, share)
    mixture = bank.find(MIXTURE, share)
    losses, _ = static_losses(bank, bench.ids, mixture, bench.setting.prefix_tokens)
    masks = bank[mixture].active.expand(len(losses), -1, -1)
    return {
        "nearest texts, no repair": bench.played(bank, nearest.pick(bench.test_prefixes), distance_flops(bench)),
        "static, the mixture's, no repair": bench.outcome(losses, masks, dense_tokens=0),
    }


def distance_flops(bench: ArmBench) -> float:
    """FLOPs of the distances to all kinds, once a text: whitened, then compared."""
    features = bench.test_prefixes.pooled.shape[1]
    return float(features**2 + 3 * len(bench.calibration) * features)
