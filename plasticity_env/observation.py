"""What a controller sees: head tokens, a few global numbers, and what it may do.

Every rule and network reads this and nothing else. Columns are named, so a controller asks for what it needs and a
checkpoint can say which columns it was trained on. Raw columns serve absolute thresholds; the normalised ones (suffix
``_z`` for a z-score over the active heads, ``_rank`` for a rank in [0, 1]) mean the same on models of any size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from gymnasium import spaces
from torch import Tensor

from plasticity_env.signals import HeadSignals

RAW_BOUND = 1e9
Z_BOUND = 5.0

# name -> (low, high)
HEAD_FEATURES: dict[str, tuple[float, float]] = {
    "active": (0, 1),
    "is_mlp": (0, 1),  # a block of MLP neurons, not a head: it has no entropy and no KV group
    "gate": (0, 1),
    "age": (0, RAW_BOUND),  # decisions since the head's last edit
    "depth": (0, 1),
    "layer_active": (0, 1),  # share of the layer's units of this kind that are active
    "group_active": (0, 1),  # share of the KV group's heads that are active
    "flop_share": (0, 1),  # of the dense model's FLOPs, what flipping this head changes
    "entropy": (0, 32),  # nats
    "entropy_normalized": (0, 1),
    "gradient": (0, RAW_BOUND),  # nats
    "fisher": (0, RAW_BOUND),
    "magnitude": (0, RAW_BOUND),
    "activation": (0, RAW_BOUND),
    "obs": (0, RAW_BOUND),
    "residual_gradient": (0, RAW_BOUND),  # nats
    "residual_fisher": (0, RAW_BOUND),
    "revive": (-RAW_BOUND, RAW_BOUND),  # nats
    "entropy_z": (-Z_BOUND, Z_BOUND),
    "gradient_z": (-Z_BOUND, Z_BOUND),  # of the log, as the next six
    "fisher_z": (-Z_BOUND, Z_BOUND),
    "magnitude_z": (-Z_BOUND, Z_BOUND),
    "activation_z": (-Z_BOUND, Z_BOUND),
    "obs_z": (-Z_BOUND, Z_BOUND),
    "residual_gradient_z": (-Z_BOUND, Z_BOUND),
    "residual_fisher_z": (-Z_BOUND, Z_BOUND),
    "gate_gradient_z": (-Z_BOUND, Z_BOUND),  # signed, in units of its root mean square
    "gradient_rank": (0, 1),
    "fisher_rank": (0, 1),
    "residual_fisher_rank": (0, 1),
    "entropy_rank": (0, 1),
}
GLOBAL_FEATURES: dict[str, tuple[float, float]] = {
    "step": (0, 1),  # share of the horizon that is over
    "steps_left": (0, RAW_BOUND),  # decisions
    "horizon": (0, RAW_BOUND),  # decisions
    "active_share": (0, 1),
    "log_flops_kept": (-32, 32),
    "log_ppl_kept": (-64, 64),
    "flop_price": (0, RAW_BOUND),
    "log_flop_price": (-16, 16),
    "budget": (0, 1),  # target share of dense FLOPs, 0 when there is none
    "max_sparsity": (0, 1),
    "prunable": (0, 1),  # share of all heads that may still go before max_sparsity
    "compressed": (0, 1),
    "trains": (0, 1),  # the model learns between decisions
    "repairs": (0, 1),
    "log_layers": (0, 16),
    "log_heads": (0, 16),
    "log_mlp_blocks": (0, 16),  # log(1 + blocks a layer that are units)
}
# What the network reads: everything with a scale that does not depend on the model.
NETWORK_HEAD_FEATURES = tuple(
    name
    for name in HEAD_FEATURES
    if name
    not in {
        "age",
        "gradient",
        "fisher",
        "magnitude",
        "activation",
        "obs",
        "revive",
        "entropy",
        "residual_gradient",
        "residual_fisher",
    }
)
NETWORK_GLOBAL_FEATURES = tuple(name for name in GLOBAL_FEATURES if name not in {"steps_left", "horizon", "flop_price"})

Observation = dict[str, np.ndarray]
_HEAD_INDEX = {name: index for index, name in enumerate(HEAD_FEATURES)}
_GLOBAL_INDEX = {name: index for index, name in enumerate(GLOBAL_FEATURES)}
_HEAD_BOUNDS = np.array(list(HEAD_FEATURES.values()), dtype=np.float32)
_GLOBAL_BOUNDS = np.array(list(GLOBAL_FEATURES.values()), dtype=np.float32)


@dataclass(frozen=True)
class HeadState:
    """The part of the tokens that the environment itself knows; all (L, U) but for ``group_size`` and ``heads``."""

    active: Tensor
    gate: Tensor
    age: np.ndarray
    flop_share: Tensor
    group_size: int
    heads: int


def head_column(observation: Observation, name: str) -> np.ndarray:
    """(N,) one named head feature."""
    return observation["heads"][:, _HEAD_INDEX[name]]


def global_value(observation: Observation, name: str) -> float:
    """One named global feature."""
    return float(observation["globals"][_GLOBAL_INDEX[name]])


def head_columns(names: tuple[str, ...]) -> list[int]:
    """Column numbers of head features."""
    return [_HEAD_INDEX[name] for name in names]


def global_columns(names: tuple[str, ...]) -> list[int]:
    """Column numbers of global features."""
    return [_GLOBAL_INDEX[name] for name in names]


def observation_space(heads: int, action_mask: tuple[int, ...]) -> spaces.Dict:
    """Space of an environment with ``heads`` head slots and an action mask of the given shape."""
    low, high = _HEAD_BOUNDS.T
    return spaces.Dict(
        {
            "heads": spaces.Box(np.tile(low, (heads, 1)), np.tile(high, (heads, 1)), dtype=np.float32),
            "globals": spaces.Box(_GLOBAL_BOUNDS[:, 0], _GLOBAL_BOUNDS[:, 1], dtype=np.float32),
            "action_mask": spaces.Box(0, 1, action_mask, dtype=np.int8),
        }
    )


def head_tokens(state: HeadState, signals: HeadSignals, hide_pruned: bool) -> np.ndarray:
    """Build the (N, F) head features.

    Args:
        state: What the environment knows.
        signals: What was measured.
        hide_pruned: Zero the signals of pruned heads (compressed mode: those heads are gone).
    """
    active = state.active.numpy()
    layers, units = active.shape
    flat_active = active.reshape(-1)
    is_mlp = np.tile(np.arange(units) >= state.heads, (layers, 1))
    heads, blocks = active[:, : state.heads], active[:, state.heads :]
    groups = heads.reshape(layers, -1, state.group_size)
    kinds = [kind for kind in (~is_mlp.reshape(-1), is_mlp.reshape(-1)) if kind.any()]
    columns: dict[str, np.ndarray] = {
        "active": active,
        "is_mlp": is_mlp,
        "gate": state.gate.numpy(),
        "age": state.age,
        "depth": np.repeat(np.arange(layers) / max(1, layers - 1), units),
        "layer_active": np.concatenate([np.repeat(_share(part), part.shape[1], 1) for part in (heads, blocks)], 1),
        "group_active": np.concatenate([np.repeat(groups.mean(2), state.group_size, 1), blocks], 1),
        "flop_share": state.flop_share.numpy(),
    }
    raw: dict[str, np.ndarray] = {
        "entropy": signals.entropy.numpy(),
        "entropy_normalized": signals.entropy_normalized.numpy(),
        "gradient": signals.gradient.numpy(),
        "fisher": signals.fisher.numpy(),
        "magnitude": signals.magnitude.numpy(),
        "activation": signals.activation.numpy(),
        "obs": _or_zeros(signals.obs, active),
        "residual_gradient": _or_zeros(signals.residual_gradient, active),
        "residual_fisher": _or_zeros(signals.residual_fisher, active),
        "revive": signals.revive.numpy(),
    }
    raw = {name: values.reshape(-1).astype(np.float64) for name, values in raw.items()}
    derived = {"entropy_z": _z_score(raw["entropy_normalized"], flat_active, kinds[:1])}
    for name in ("gradient", "fisher", "magnitude", "activation", "obs", "residual_gradient", "residual_fisher"):
        positive = np.log(np.maximum(raw[name], 1e-20))
        derived[f"{name}_z"] = _z_score(positive, flat_active & (raw[name] > 0), kinds)
    signed = signals.gate_gradient.numpy().reshape(-1).astype(np.float64)
    spread = np.sqrt(np.mean(np.square(signed[flat_active]))) if flat_active.any() else 0.0
    derived["gate_gradient_z"] = signed / (spread + 1e-12)
    derived["gradient_rank"] = _rank(raw["gradient"], flat_active)
    derived["fisher_rank"] = _rank(raw["fisher"], flat_active)
    derived["residual_fisher_rank"] = _rank(raw["residual_fisher"], flat_active)
    derived["entropy_rank"] = _rank(raw["entropy_normalized"], flat_active & kinds[0]) * kinds[0]
    measured = {**raw, **derived}
    if hide_pruned:
        measured = {name: np.where(flat_active, values, 0.0) for name, values in measured.items()}
    columns.update(measured)
    table = np.stack([columns[name].reshape(-1) for name in HEAD_FEATURES], 1).astype(np.float32)  # (N, F)
    return np.clip(table, _HEAD_BOUNDS[:, 0], _HEAD_BOUNDS[:, 1])


def global_vector(values: dict[str, float]) -> np.ndarray:
    """Build the (G,) global features from a value for each name."""
    vector = np.array([values[name] for name in GLOBAL_FEATURES], dtype=np.float32)
    return np.clip(vector, _GLOBAL_BOUNDS[:, 0], _GLOBAL_BOUNDS[:, 1])


def _or_zeros(values: Tensor | None, active: np.ndarray) -> np.ndarray:
    """A signal, or zeros where it was not measured."""
    return np.zeros(active.shape, dtype=np.float32) if values is None else values.numpy()


def _share(part: np.ndarray) -> np.ndarray:
    """(L, 1) share of a kind's units that are active; 0 where there are none."""
    return part.sum(1, keepdims=True) / max(1, part.shape[1])


def _z_score(values: np.ndarray, counted: np.ndarray, kinds: list[np.ndarray]) -> np.ndarray:
    """Standardise each kind of unit by the mean and spread of its counted entries; zeros where fewer than two count."""
    scores = np.zeros_like(values)
    for kind in kinds:
        chosen = values[counted & kind]
        if len(chosen) >= 2:
            scores[kind] = (values[kind] - chosen.mean()) / (chosen.std() + 1e-6)
    return np.clip(scores, -Z_BOUND, Z_BOUND)


def _rank(values: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Share of counted entries that are smaller, in [0, 1]; 0 where nothing counts."""
    pool = np.sort(values[counted])
    if len(pool) < 2:
        return np.zeros_like(values)
    return np.minimum(np.searchsorted(pool, values, side="left") / (len(pool) - 1), 1.0)
