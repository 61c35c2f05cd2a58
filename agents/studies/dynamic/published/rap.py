"""RAP's greedy rule: the attention or MLP part goes after whose removal the measured perplexity is lowest, under a budget.

Liu et al. 2025, "RAP: Runtime-Adaptive Pruning for LLM Inference" (arXiv 2505.17138): after every removal all parts that are
left are measured anew. Played on each request's prefix, where all measurements are billed, and once on calibration text, which
costs a request nothing. Their reinforcement-learning agent, which chooses among the same parts, is not played.
"""

from __future__ import annotations

import torch

from plasticity_env.agents.studies.dynamic.published.arm_bench import ArmBench, Outcome
from plasticity_env.agents.studies.dynamic.published.greedy_removal import losses_on, remove_greedily

GREEDY_BATCH = 64  # prefixes in one pass


def play_rap(bench: ArmBench, share: float) -> dict[str, Outcome]:
    """By each text's own prefix, and by calibration text of all kinds for all texts."""
    removable, budget, prefix = bench.removable("blocks"), bench.budget(share), bench.setting.prefix_tokens
    starts = bench.ids[:, None, :prefix]  # (N, 1, P)
    path = remove_greedily(
        removable, losses_on(bench.model, starts, batch_size=GREEDY_BATCH), budget, count=len(bench.ids)
    )
    masks, spent = path.nearest(budget)
    found = {"RAP, greedy on the prefix": bench.outcome(bench.losses(masks), masks, prefix * spent)}
    mixed = torch.cat([ids[: bench.setting.greedy_texts] for ids in bench.calibration.values()])[None]
    masks, _ = remove_greedily(removable, losses_on(bench.model, mixed), budget).nearest(budget)
    everywhere = masks.expand(len(bench.ids), -1, -1)
    found["RAP, greedy on calibration text"] = bench.outcome(bench.losses(everywhere), everywhere)
    return found
