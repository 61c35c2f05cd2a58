"""IFPruning: a small network reads the prompt and scores all heads; those of highest score run.

Hou et al. 2025, "Instruction-Following Pruning for Large Language Models" (arXiv 2501.02086). The network is trained by the loss
of the text that follows. The paper prunes neurons of feed-forward layers with a soft top-k, reads the prompt with a small
language model and trains the large one with it; here the network reads pooled hidden states of the prefix, heads go by a
straight-through top-k, and the model stays frozen.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from plasticity_env.agents.studies.dynamic.published.arm_bench import ArmBench, Outcome
from plasticity_env.agents.studies.dynamic.published.trained_masks import masks_by, train_masks

WIDTH = 64


class HeadScorer(nn.Module):
    """Scores of n things from pooled hidden states.

    Args:
        pooled: (M, F) of train texts, by whose mean and spread inputs are scaled.
        count: n.
        seed: Seed of the weights.
    """

    center: Tensor
    scale: Tensor

    def __init__(self, pooled: Tensor, count: int, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.register_buffer("center", pooled.mean(0))
        self.register_buffer("scale", pooled.std(0).clamp(min=1e-6))
        self.hidden = nn.Linear(pooled.shape[1], WIDTH)
        self.out = nn.Linear(WIDTH, count)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        """(B, n) from (B, F)."""
        found: Tensor = self.out(torch.tanh(self.hidden((pooled - self.center) / self.scale)))
        return found

    @property
    def flops(self) -> float:
        """FLOPs once a text."""
        return 2.0 * (self.hidden.weight.numel() + self.out.weight.numel())


def play_if(bench: ArmBench, share: float) -> dict[str, Outcome]:
    """Heads, without repair: a mask of its own for every text."""
    setting, removable, target = bench.setting, bench.removable("heads"), bench.budget(share)
    ids = torch.cat(list(bench.train.values()))
    pooled = bench.prefixes(ids).pooled.float().cpu()
    scorer = HeadScorer(pooled, len(removable), bench.draw)
    train_masks(
        bench.model,
        scorer,
        pooled,
        ids,
        removable,
        target,
        steps=setting.mask_steps,
        batch_size=setting.mask_batch,
        rate=setting.mask_rate,
        prefix_tokens=setting.prefix_tokens,
        seed=bench.draw,
    )
    masks = masks_by(scorer, bench.test_prefixes.pooled.float().cpu(), removable, target)
    return {"IFPruning, heads": bench.outcome(bench.losses(masks), masks, scorer.flops)}
