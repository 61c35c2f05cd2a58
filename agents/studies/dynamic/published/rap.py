"""RAP's greedy rule: the attention or MLP part goes after whose removal the measured perplexity is lowest, under a budget.

Liu et al. 2025, "RAP: Runtime-Adaptive Pruning for LLM Inference" (arXiv 2505.17138): after every removal all parts that are
left are measured anew. Played on each request's prefix, where all measurements are billed, and once on calibration text, which
costs a request nothing; and their learned agent, which chooses among the same parts (`removal_agent`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from plasticity_env.agents.studies.dynamic.published.arm_bench import ArmBench, Outcome
from plasticity_env.agents.studies.dynamic.published.greedy_removal import losses_on, remove_greedily
from plasticity_env.agents.studies.dynamic.published.removal_agent import RemovalEnv, remover_flops, trained_remover
from plasticity_env.dynamic.text_masks import masked_losses

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


def play_rap_agent(bench: ArmBench, share: float) -> dict[str, Outcome]:
    """The agent, trained on train texts: which parts go is decided from the prefix."""
    setting, budget, prefix = bench.setting, bench.budget(share), bench.setting.prefix_tokens
    ids = torch.cat(list(bench.train.values()))

    def loss_of(text: int, mask: Tensor) -> float:
        return float(masked_losses(bench.model, ids[text][None], mask[None], dense_tokens=prefix, first=prefix))

    env = RemovalEnv(bench.removable("blocks"), [budget], bench.prefixes(ids).features.numpy(), loss_of)
    agent = trained_remover(env, setting.agent_steps, bench.draw)
    masks = torch.stack([env.mask_of(agent, row, budget) for row in bench.test_prefixes.features.numpy()])
    decisions = (~masks).any(2).sum(1) * remover_flops(agent)  # each removal is of one layer's heads or MLP
    return {"RAP, agent": bench.outcome(bench.losses(masks), masks, bench.reader.flops + decisions)}
