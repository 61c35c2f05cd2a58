"""What the first tokens of a text make of every unit, by a forward alone: attention entropy, activation, fluctuation."""

from __future__ import annotations

import torch
from torch import Tensor

from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.signals.batched_model import weights_of
from plasticity_env.signals.recorder import SignalRecorder

PREFIX_SIGNALS = ("entropy", "activation", "fluctuation")


@torch.no_grad()
def prefix_signals(model: PlasticModel, input_ids: Tensor, batch_size: int = 8) -> Tensor:
    """Signals of every unit on each text by itself: forwards of the model as it is.

    Args:
        model: The model.
        input_ids: (B, P) token ids.
        batch_size: Texts in one pass.

    Returns:
        (B, L, U, 3) float32 on the CPU: attention entropy over the log of the visible length (0 of MLP blocks); root mean
        square over tokens of the norm of what the unit writes; FLAP's fluctuation, the variance of its inputs over tokens
        times the squared norm of their rows.
    """
    weights, found = weights_of(model, {}), []
    for chunk in input_ids.split(batch_size):
        ids, tokens = chunk.to(model.device), chunk.shape[1]
        recorder = SignalRecorder(model, gram=False, groups=len(ids))
        recorder.begin(None, len(ids), tokens)
        with model.using(model.state.gates, recorder):
            model.model(input_ids=ids, use_cache=False)
        gates = model.gates.expand(len(ids), -1, -1)
        parts = [
            recorder.entropy_normalized(),
            recorder.units(lambda sums, _, of: sums.activation(tokens, of), gates, weights),  # noqa: B023
            recorder.units(lambda sums, _, of: sums.fluctuation(tokens, of), gates, weights),  # noqa: B023
        ]
        found.append(torch.stack(parts, -1))
    return torch.cat(found)


def signals_flops(model: PlasticModel, tokens: int) -> float:
    """FLOPs that these signals cost beside the forward, once a text.

    Entropy needs one more product of attention weights and keys, activation the second moments of every unit's W inputs; sums
    that grow with neither are left out, as the forward's norms are.

    Args:
        model: The model.
        tokens: Tokens of the prefix.
    """
    entropy = sum(2.0 * tokens**2 * model.heads * site.unit_width for site in model.blocks)
    units = [(site.columns.stop - site.columns.start, site.unit_width) for site in model.sites]
    return entropy + sum(2.0 * tokens * count * width**2 for count, width in units)
