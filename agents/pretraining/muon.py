"""Muon for the hidden matrices and AdamW for everything else.

Muon (Jordan et al., 2024, "Muon: An optimizer for hidden layers in neural networks") replaces a matrix's
momentum by a nearly semi-orthogonal matrix, found by a Newton-Schulz iteration; the step is scaled by
0.2 sqrt(max side) so that its root mean square is that of a typical AdamW step (Liu et al., 2025,
"Muon is Scalable for LLM Training", arXiv:2502.16982).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from transformers import PreTrainedModel

NEWTON_SCHULZ: Final = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration, tuned by Jordan et al. to lift small singular values fast."""


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """Push all singular values of each matrix towards one.

    Args:
        matrices: (B, R, C) with R <= C.
        steps: Number of Newton-Schulz iterations.

    Returns:
        (B, R, C), each approximately U V^T of its singular value decomposition.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT  # (B, R, R)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def square_blocks(matrix: Tensor) -> tuple[Tensor, ...]:
    """Split a fused query-key-value matrix (3d x d or d x 3d) into three squares; others stay whole."""
    rows, columns = matrix.shape
    if max(rows, columns) == 3 * min(rows, columns):
        return matrix.chunk(3, dim=0 if rows > columns else 1)
    return (matrix,)


class Muon(Optimizer):
    """Orthogonalised momentum with decoupled weight decay, for 2-D parameters only."""

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient; equal shapes are orthogonalised in one batch."""
        for group in self.param_groups:
            batches: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                direction = p.grad.lerp(state["momentum"], group["momentum"])  # Nesterov
                p.mul_(1 - group["lr"] * group["weight_decay"])
                for target, piece in zip(square_blocks(p), square_blocks(direction), strict=True):
                    wide = (target, piece) if piece.shape[0] <= piece.shape[1] else (target.mT, piece.mT)
                    batches[wide[0].shape].append(wide)
            for shape, pairs in batches.items():
                updates = orthogonalize(torch.stack([piece for _, piece in pairs]))
                for (target, _), update in zip(pairs, updates, strict=True):
                    target.add_(update, alpha=-group["lr"] * 0.2 * shape[1] ** 0.5)


def hidden_matrices(model: PreTrainedModel) -> set[Tensor]:
    """The 2-D parameters that are neither an embedding table nor the output projection to the vocabulary."""
    tables = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    head = model.get_output_embeddings()
    if head is not None:
        tables.add(head.weight)
    return {p for p in model.parameters() if p.ndim == 2 and p not in tables}


def make_optimizers(
    model: PreTrainedModel, matrix_lr: float, vector_lr: float, weight_decay: float, use_muon: bool
) -> list[Optimizer]:
    """Muon on the hidden matrices and AdamW on the rest, or (naive) one AdamW on all at `vector_lr`."""
    if not use_muon:
        return [AdamW(model.parameters(), lr=vector_lr)]
    matrices = hidden_matrices(model)
    return [
        Muon([p for p in model.parameters() if p in matrices], lr=matrix_lr, weight_decay=weight_decay),
        AdamW(
            [p for p in model.parameters() if p not in matrices],
            lr=vector_lr,
            betas=(0.9, 0.95),
            weight_decay=0.0,
        ),
    ]
