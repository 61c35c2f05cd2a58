"""A mask of its own for every text: what a structure without repair computes, after a dense prefix, with gradients."""

from __future__ import annotations

import pytest
import torch

from plasticity_env import InputError, PlasticModel
from plasticity_env.dynamic import Structure, StructureBank
from plasticity_env.dynamic.route_table import routed_losses
from plasticity_env.dynamic.text_masks import losses_after, masked_losses, text_masks
from tests.conftest import build


def masks_of(model: PlasticModel, count: int) -> torch.Tensor:
    return torch.rand(count, *model.shape, generator=torch.Generator().manual_seed(2)) > 0.4


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "opt"])
def test_a_mask_is_a_structure_without_repair(architecture: str, ids: torch.Tensor) -> None:
    model = PlasticModel(build(architecture).double(), mlp_blocks=2)
    masks = masks_of(model, len(ids))
    bank = StructureBank(model, [Structure(str(number), mask, {}) for number, mask in enumerate(masks)])
    together = masked_losses(model, ids, masks, dense_tokens=4, first=4, batch_size=2)
    alone = torch.cat([routed_losses(bank, ids[row : row + 1], row + 1, 4) for row in range(len(ids))])
    assert torch.allclose(together, alone.to(together), rtol=1e-5)
    assert not torch.allclose(
        together, masked_losses(model, ids, masks, first=4), rtol=1e-3
    )  # the prefix pruned as well


def test_gradients_reach_the_gates_and_nothing_stays_behind(ids: torch.Tensor) -> None:
    model = PlasticModel(build("gpt2").double())  # whose norms stay in float64
    before = losses_after(model, ids, 4)
    gates = masks_of(model, len(ids)).double().requires_grad_()
    with text_masks(model, gates, 4):
        losses_after(model, ids, 4).sum().backward()
    assert gates.grad is not None
    step = 1e-5 * gates.grad
    with torch.no_grad():
        ends = []
        for sign in (1, -1):
            with text_masks(model, gates + sign * step, 4):
                ends.append(float(losses_after(model, ids, 4).sum()))
    assert (ends[0] - ends[1]) / 2 == pytest.approx(float((gates.grad * step).sum()), rel=1e-3)
    assert torch.equal(losses_after(model, ids, 4), before)
    with pytest.raises(InputError, match="gates must be"), text_masks(model, gates[0]):
        pass
