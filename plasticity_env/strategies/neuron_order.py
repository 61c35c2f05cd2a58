"""Which neurons share a block: an MLP's neurons put in order of what their removal costs, before they are cut into blocks.

A block of neurons as they are stored is a sample of the whole layer: no block is cheap. Neurons may trade places, with their
rows of the input projections and their row of the output projection, and the model computes what it did, but for the order of the
sums. So the expensive ones go to the front and the cheap ones to the back, and the last blocks hold what is missed least.

Two prices, both measured on the dense model in one pass over calibration text; x is a neuron's output at a token and g the loss's
gradient in it:

- **token_fisher**: sum of (g x)^2, as if nothing made up for the neuron;
- **kfac**: sum of r^2 times sum of g^2, where r is what the layer's other neurons cannot say of x (ridge regression), as in
  `plasticity_env.signals.slopes`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from plasticity_env.common.errors import InputError, unknown
from plasticity_env.data.text import TextSplits, some_blocks
from plasticity_env.model.contexts import frozen
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.signals.measure import sequence_losses
from plasticity_env.signals.residual import residual_projector

ORDER_BLOCKS = 16  # calibration blocks that are read for it, spread evenly over the split


@dataclass
class NeuronSums:
    """Sums over the tokens of a text, of one MLP with I neurons, in float64.

    Attributes:
        inputs: (I, I) sum of x x^T; None where it was not asked for.
        gradients: (I,) sum of g^2.
        slopes: (I,) sum of (g x)^2.
    """

    inputs: Tensor | None
    gradients: Tensor
    slopes: Tensor


def token_fisher(sums: NeuronSums) -> Tensor:
    """(I,) prices of neurons for which nothing makes up."""
    return sums.slopes


def kfac(sums: NeuronSums) -> Tensor:
    """(I,) prices of neurons for which the layer's others make up.

    With B = (X + lambda I)^-1, X the sum of x x^T, what the others leave of neuron i is x B_:i / B_ii.
    """
    assert sums.inputs is not None
    everyone = torch.ones(1, len(sums.inputs), dtype=torch.bool)
    inverse = residual_projector(sums.inputs[None], everyone, unit_width=1).inverse[0]
    left = (inverse * (sums.inputs @ inverse)).sum(0) / inverse.diagonal().square()
    return left.clamp(min=0) * sums.gradients


ORDERS: dict[str, Callable[[NeuronSums], Tensor] | None] = {"stored": None, "token_fisher": token_fisher, "kfac": kfac}
READS_INPUTS = (kfac,)  # prices that want `NeuronSums.inputs`


def find_order(name: str) -> Callable[[NeuronSums], Tensor] | None:
    """What prices neurons, by the name of an order; None where they stay as they are stored.

    Raises:
        InputError: No order has this name.
    """
    if name not in ORDERS:
        raise unknown("neuron order", name, [*ORDERS, "auto"])
    return ORDERS[name]


def order_neurons(model: PlasticModel, text: TextSplits, order: str, batch_size: int = 8) -> None:
    """Put the neurons of every MLP in order, the dearest first; the model computes the same, up to rounding.

    Args:
        model: Dense, without repairs. One whose neurons are in this order already (its ``neuron_order``) is left alone.
        text: `ORDER_BLOCKS` blocks of its calibration split are read (all, where there are fewer).
        order: Name in `ORDERS`; "stored" leaves every model as it is, "auto" is kfac for one whose neurons are as stored.
        batch_size: Sequences in one pass.

    Raises:
        InputError: No order of that name, a model that is pruned, repaired or in another order, one without MLPs, or whose
            activations are not finite.
    """
    if order == "auto":
        order = "kfac" if model.neuron_order == "stored" else model.neuron_order
    price = find_order(order)
    if price is None or order == model.neuron_order:
        return
    if not model.mlps:
        raise InputError(
            f"this model has no MLP whose neurons could be put in the order {order!r} (a mixture of experts has none)"
        )
    if model.neuron_order != "stored":
        raise InputError(
            f"the model's neurons are in the order {model.neuron_order!r} already, {order!r} was asked for: load it again"
        )
    if model.state.gates is not None or model.repaired_sites:
        raise InputError("neurons are put in order before anything is pruned, grown or repaired: load the model again")
    blocks = text.blocks("calibration")
    ids = some_blocks(blocks, min(ORDER_BLOCKS, len(blocks)), spread=True)
    prices = [price(sums) for sums in neuron_sums(model, ids, batch_size, moments=price in READS_INPUTS)]
    for mlp, of_layer in zip(model.mlps, prices, strict=True):
        mlp.permute(of_layer.argsort(descending=True, stable=True))
    model.neuron_order = order
    model.weights_changed()


def neuron_sums(model: PlasticModel, input_ids: Tensor, batch_size: int = 8, moments: bool = True) -> list[NeuronSums]:
    """Measure the neurons of every MLP, in order: one forward and one backward.

    Args:
        model: The model; it is left as it is.
        input_ids: (B, T) token ids.
        batch_size: Sequences in one pass.
        moments: Whether ``inputs`` are gathered too, the only sums that grow with the square of a layer's width.

    Raises:
        InputError: Sums that are not finite.
    """
    found = []
    for mlp in model.mlps:
        zeros = partial(torch.zeros, dtype=torch.float64, device=model.device)
        square = zeros(mlp.width, mlp.width) if moments else None
        found.append(NeuronSums(square, zeros(mlp.width), zeros(mlp.width)))
    seen: dict[int, Tensor] = {}

    def watch(index: int) -> Callable[[Any, tuple[Tensor]], tuple[Tensor]]:
        def hook(module: Any, args: tuple[Tensor]) -> tuple[Tensor]:
            seen[index] = args[0] if args[0].requires_grad else args[0].requires_grad_()
            return (seen[index],)

        return hook

    hooks = [mlp.output.register_forward_pre_hook(watch(index)) for index, mlp in enumerate(model.mlps)]
    try:
        with frozen(model), torch.enable_grad():
            for chunk in input_ids.split(batch_size):
                losses = sequence_losses(model, chunk.to(model.device))
                gradients = torch.autograd.grad(losses.sum(), [seen[index] for index in range(len(found))])
                for index, gradient in enumerate(gradients):
                    x, g = (each.detach().flatten(0, -2).double() for each in (seen[index], gradient))
                    sums = found[index]
                    if sums.inputs is not None:
                        sums.inputs += x.mT @ x
                    sums.gradients += g.square().sum(0)
                    sums.slopes += (x * g).square().sum(0)
    finally:
        for hook in hooks:
            hook.remove()
    gathered = (each for sums in found for each in (sums.inputs, sums.gradients, sums.slopes) if each is not None)
    if not all(bool(torch.isfinite(each).all()) for each in gathered):
        raise InputError("the model's activations are not finite: its weights are broken, or it has diverged")
    return found
