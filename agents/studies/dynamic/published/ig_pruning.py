"""IG-Pruning: texts are clustered without labels, each cluster has a mask that was trained on it, the nearest centroid picks.

Qiao, Zhang and Feng 2025, "IG-Pruning: Input-Guided Block Pruning for Large Language Models" (arXiv 2511.02213). Clusters are
those of k-means. The paper embeds inputs with an encoder of its own and trains block masks with hard-concrete gates and a
penalty on their number; ours compares pooled hidden states of the prefix, and trains masks of exactly the budget through a
straight-through estimator, on the cluster's train texts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from plasticity_env.agents.studies.dynamic.published.arm_bench import ArmBench, Outcome
from plasticity_env.agents.studies.dynamic.published.trained_masks import masks_by, train_masks
from plasticity_env.controllers.routers.nearest_centroid import NearestCentroid, k_means
from plasticity_env.dynamic.bank import StructureBank
from plasticity_env.dynamic.structure import Structure, repair_of
from plasticity_env.signals.text_sums import gather_sums


def play_ig(bench: ArmBench, share: float) -> dict[str, Outcome]:
    """Blocks as the paper removes them, and heads without and with repair."""
    ids = torch.cat(list(bench.train.values()))
    pooled = bench.prefixes(ids).pooled
    centroids = k_means(pooled, bench.setting.clusters, bench.draw)
    router = NearestCentroid(centroids, range(1, len(centroids) + 1))
    groups, found = router.nearest(pooled), {}
    for kind_of_part in ("blocks", "heads"):
        masks = cluster_masks(bench, ids, groups, kind_of_part, share)
        plain = [Structure(f"cluster{number}", mask, {}, "", share) for number, mask in enumerate(masks)]
        found[f"IG-Pruning, {kind_of_part}"] = _played(bench, plain, router)
    found["IG-Pruning, heads, our repair"] = _played(
        bench, [_repaired(bench, structure, ids[groups == number]) for number, structure in enumerate(plain)], router
    )
    return found


def cluster_masks(bench: ArmBench, ids: Tensor, groups: Tensor, kind_of_part: str, share: float) -> Tensor:
    """(k, L, U) a mask for each cluster of train texts, trained together: a batch holds texts of several clusters."""
    setting, removable, count = bench.setting, bench.removable(kind_of_part), bench.setting.clusters
    scores = nn.Linear(count, len(removable), bias=False)  # the scores of each cluster, looked up
    nn.init.zeros_(scores.weight)
    train_masks(
        bench.model,
        scores,
        torch.eye(count)[groups],
        ids,
        removable,
        bench.budget(share),
        steps=setting.mask_steps,
        batch_size=setting.mask_batch,
        rate=setting.mask_rate,
        prefix_tokens=setting.prefix_tokens,
        seed=bench.draw,
    )
    return masks_by(scores, torch.eye(count), removable, bench.budget(share))


def _repaired(bench: ArmBench, structure: Structure, ids: Tensor) -> Structure:
    statistics = gather_sums(bench.model, ids, gradients=False).statistics
    mixes = repair_of(bench.model, structure.active, statistics)
    return Structure(structure.name, structure.active, mixes, structure.label, structure.share)


def _played(bench: ArmBench, structures: list[Structure], router: NearestCentroid) -> Outcome:
    bank = StructureBank(bench.model, structures)
    return bench.played(bank, router.pick(bench.test_prefixes), router.flops)
