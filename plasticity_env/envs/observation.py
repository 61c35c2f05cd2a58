"""What a controller sees: head tokens, a few global numbers, and what it may do.

Every rule and network reads this and nothing else. Columns are named, so a controller asks for what it needs and a
checkpoint can say which columns it was trained on. Raw columns serve absolute thresholds; the normalised ones (suffix
``_z`` for a z-score over the active heads, ``_rank`` for a rank in [0, 1]) mean the same on models of any size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from gymnasium import spaces
from torch import Tensor

from plasticity_env.common.errors import InputError
from plasticity_env.signals.measure import HeadSignals
from plasticity_env.signals.slopes import KINDS, SCORES

RAW_BOUND = 1e9
Z_BOUND = 5.0
DRIFT_BOUND = 4.0  # nats
TINY = 1e-20  # where logs begin
RESIDUAL = tuple(f"{kind}_{score}" for kind in KINDS for score in SCORES)

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
    "fluctuation": (0, RAW_BOUND),
    "obs": (0, RAW_BOUND),
    **dict.fromkeys(RESIDUAL, (0, RAW_BOUND)),  # along residuals, in-sample and cross-fitted
    "revive": (-RAW_BOUND, RAW_BOUND),  # nats
    "entropy_z": (-Z_BOUND, Z_BOUND),
    "gradient_z": (-Z_BOUND, Z_BOUND),  # of the log, as all that follow but for gate_gradient
    "fisher_z": (-Z_BOUND, Z_BOUND),
    "magnitude_z": (-Z_BOUND, Z_BOUND),
    "activation_z": (-Z_BOUND, Z_BOUND),
    "fluctuation_z": (-Z_BOUND, Z_BOUND),
    "obs_z": (-Z_BOUND, Z_BOUND),
    **{f"{name}_z": (-Z_BOUND, Z_BOUND) for name in RESIDUAL},
    "gate_gradient_z": (-Z_BOUND, Z_BOUND),  # signed, in units of its root mean square
    "gradient_rank": (0, 1),
    "fisher_rank": (0, 1),
    "residual_fisher_rank": (0, 1),
    "entropy_rank": (0, 1),
    "layer_fisher_rank": (0, 1),  # among the layer's active units of this kind
    "layer_residual_rank": (0, 1),  # the same by residual_fisher
    "layer_fluctuation_z": (-Z_BOUND, Z_BOUND),  # fluctuation among the layer's active units of this kind: FLAP's score
    "gradient_per_flop_z": (-Z_BOUND, Z_BOUND),  # of the log, over all active units of every kind, as the next five
    "residual_fisher_per_flop_z": (-Z_BOUND, Z_BOUND),
    "crossfit_token_fisher_per_flop_z": (-Z_BOUND, Z_BOUND),
    "crossfit_kfac_per_flop_z": (-Z_BOUND, Z_BOUND),
    "residual_stepwise_per_flop_z": (-Z_BOUND, Z_BOUND),
    "crossfit_stepwise_per_flop_z": (-Z_BOUND, Z_BOUND),
    "layer_mean_z": (-Z_BOUND, Z_BOUND),  # of the mean log residual_fisher of the layer's active units, over the layers
    "overfit": (-DRIFT_BOUND, DRIFT_BOUND),  # log of crossfit_fisher over residual_fisher
    "sensitivity_drift": (-DRIFT_BOUND, DRIFT_BOUND),  # log of fisher now over fisher when the episode began
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
    "target_share": (0, 1),  # HeadRank: share of the units that is pruned when the horizon is over, 0 elsewhere
    "due_share": (0, 1),  # HeadRank: share of the units that is pruned after this decision, 0 elsewhere
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
        "fluctuation",
        "obs",
        "revive",
        "entropy",
        *RESIDUAL,
    }
)
NETWORK_GLOBAL_FEATURES = tuple(name for name in GLOBAL_FEATURES if name not in {"steps_left", "horizon", "flop_price"})

EnvKind = Literal["heads", "head_edit", "head_rank"]
_SIGNALS = tuple(name for name in HEAD_FEATURES if name in HeadSignals.__dataclass_fields__)  # the raw ones
# columns whose z-score is of the log
_LOGGED = (
    "gradient",
    "fisher",
    "magnitude",
    "activation",
    "fluctuation",
    "obs",
    *RESIDUAL,
)
_PER_FLOP = (
    "gradient",
    "residual_fisher",
    "crossfit_token_fisher",
    "crossfit_kfac",
    "residual_stepwise",
    "crossfit_stepwise",
)
_HEAD_INDEX = {name: index for index, name in enumerate(HEAD_FEATURES)}
_GLOBAL_INDEX = {name: index for index, name in enumerate(GLOBAL_FEATURES)}
_HEAD_BOUNDS = np.array(list(HEAD_FEATURES.values()), dtype=np.float32)
_GLOBAL_BOUNDS = np.array(list(GLOBAL_FEATURES.values()), dtype=np.float32)


class Observation(dict[str, np.ndarray]):
    """``heads``, ``globals`` and ``action_mask``, with the kind of environment that shows them; else a dictionary like any other.

    Args:
        kind: Of the environment.
        values: Arrays by name.
    """

    def __init__(self, kind: EnvKind, values: Mapping[str, np.ndarray]) -> None:
        super().__init__(values)
        self.kind = kind

    def but(self, **values: np.ndarray) -> Observation:
        """The same with other values."""
        return Observation(self.kind, {**self, **values})

    def row(self, index: int) -> Observation:
        """What one environment of several shows."""
        return Observation(self.kind, {name: values[index] for name, values in self.items()})


def kind_of(observation: Mapping[str, np.ndarray]) -> EnvKind:
    """The kind of environment that shows this.

    Raises:
        InputError: A plain dictionary, which does not say.
    """
    if not isinstance(observation, Observation):
        raise InputError(
            f"an observation must say its environment's kind, got a plain {type(observation).__name__}: hand over what the "
            "environment returned, or Observation('heads', ...), 'head_edit' or 'head_rank' from plasticity_env.envs.observation"
        )
    return observation.kind


@dataclass(frozen=True)
class HeadState:
    """The part of the tokens that environments themselves know of n masks; (n, L, U) but for ``group_size``, ``heads``.

    ``first_fisher`` are the Fisher scores when the episode began; None where it begins now.
    """

    active: Tensor
    gate: Tensor
    age: np.ndarray
    flop_share: Tensor
    group_size: int
    heads: int
    first_fisher: Tensor | None = None


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


def head_tokens(state: HeadState, signals: Sequence[HeadSignals], hide_pruned: bool) -> np.ndarray:
    """Build the (n, N, F) head features of n masks.

    Args:
        state: What the environments know.
        signals: What was measured of each mask.
        hide_pruned: Zero the signals of pruned heads (compressed mode: those heads are gone).
    """
    active = state.active.numpy()
    masks, layers, units = active.shape
    flat = active.reshape(masks, -1)  # (n, N)
    is_mlp = np.tile(np.arange(units) >= state.heads, layers)  # (N,)
    heads, blocks = active[..., : state.heads], active[..., state.heads :]
    groups = heads.reshape(masks, layers, -1, state.group_size).mean(3)
    kinds = [kind for kind in (~is_mlp, is_mlp) if kind.any()]
    columns: dict[str, np.ndarray] = {
        "active": active,
        "is_mlp": np.broadcast_to(is_mlp, flat.shape),
        "gate": state.gate.numpy(),
        "age": state.age,
        "depth": np.broadcast_to(np.repeat(np.arange(layers) / max(1, layers - 1), units), flat.shape),
        "layer_active": np.concatenate([np.repeat(_share(part), part.shape[2], 2) for part in (heads, blocks)], 2),
        "group_active": np.concatenate([np.repeat(groups, state.group_size, 2), blocks], 2),
        "flop_share": state.flop_share.numpy(),
    }
    raw = {name: _stacked(signals, name, flat.shape) for name in _SIGNALS}
    derived = {"entropy_z": _z_score(raw["entropy_normalized"], flat, kinds[:1])}
    for name in _LOGGED:
        positive = np.log(np.maximum(raw[name], TINY))
        derived[f"{name}_z"] = _z_score(positive, flat & (raw[name] > 0), kinds)
    everything = [np.ones(len(is_mlp), dtype=bool)]
    cost = np.maximum(state.flop_share.numpy().reshape(flat.shape).astype(np.float64), TINY)
    for name in _PER_FLOP:
        positive = np.log(np.maximum(raw[name] / cost, TINY))
        derived[f"{name}_per_flop_z"] = _z_score(positive, flat & (raw[name] > 0), everything)
    signed = _stacked(signals, "gate_gradient", flat.shape)
    spread = np.sqrt(np.where(flat, np.square(signed), 0.0).sum(1) / np.maximum(1, flat.sum(1)))  # (n,)
    derived["gate_gradient_z"] = signed / (spread[:, None] + 1e-12)
    derived["gradient_rank"] = _rank(raw["gradient"], flat)
    derived["fisher_rank"] = _rank(raw["fisher"], flat)
    derived["residual_fisher_rank"] = _rank(raw["residual_fisher"], flat)
    derived["entropy_rank"] = _rank(raw["entropy_normalized"], flat & kinds[0]) * kinds[0]
    parts = [slice(0, state.heads), slice(state.heads, units)][: len(kinds)]
    fisher, residual = (raw[name].reshape(active.shape) for name in ("fisher", "residual_fisher"))
    layered = {
        "layer_fisher_rank": _layer_rank(fisher, active, parts),
        "layer_residual_rank": _layer_rank(residual, active, parts),
        "layer_fluctuation_z": _layer_z(raw["fluctuation"].reshape(active.shape), active, parts),
        "layer_mean_z": _layer_mean_z(residual, active, parts),
    }
    derived |= {name: values.reshape(flat.shape) for name, values in layered.items()}
    first = (
        raw["fisher"]
        if state.first_fisher is None
        else state.first_fisher.numpy().reshape(flat.shape).astype(np.float64)
    )
    derived["overfit"] = _log_ratio(raw["crossfit_fisher"], raw["residual_fisher"])
    derived["sensitivity_drift"] = _log_ratio(raw["fisher"], first)
    measured = {**raw, **derived}
    if hide_pruned:
        measured = {name: np.where(flat, values.reshape(flat.shape), 0.0) for name, values in measured.items()}
    columns.update(measured)
    table = np.stack([columns[name].reshape(flat.shape) for name in HEAD_FEATURES], 2).astype(np.float32)  # (n, N, F)
    return np.clip(table, _HEAD_BOUNDS[:, 0], _HEAD_BOUNDS[:, 1])


def global_vectors(values: Mapping[str, float | np.ndarray], masks: int) -> np.ndarray:
    """Build the (n, G) global features from a value for each name, (n,) or one for all."""
    table = np.empty((masks, len(GLOBAL_FEATURES)), dtype=np.float32)
    for column, name in enumerate(GLOBAL_FEATURES):
        table[:, column] = values[name]
    return np.clip(table, _GLOBAL_BOUNDS[:, 0], _GLOBAL_BOUNDS[:, 1])


def _stacked(signals: Sequence[HeadSignals], name: str, shape: tuple[int, ...]) -> np.ndarray:
    """(n, N) float64 of one signal; zeros where it was not measured."""
    values = [getattr(measured, name) for measured in signals]
    if values[0] is None:
        return np.zeros(shape)
    return np.stack([value.numpy() for value in values]).reshape(shape).astype(np.float64)


def _share(part: np.ndarray) -> np.ndarray:
    """(n, L, 1) share of a kind's units that are active; 0 where there are none."""
    return part.sum(2, keepdims=True) / max(1, part.shape[2])


def _z_score(values: np.ndarray, counted: np.ndarray, kinds: list[np.ndarray]) -> np.ndarray:
    """Standardise each kind of unit by the mean and spread of its counted entries; zeros where fewer than two count.

    Args:
        values: (n, N).
        counted: (n, N) boolean.
        kinds: (N,) boolean each.
    """
    scores = np.zeros_like(values)
    for kind in kinds:
        chosen, mine = counted[:, kind], values[:, kind]
        count = chosen.sum(1, keepdims=True)
        mean = np.where(chosen, mine, 0.0).sum(1, keepdims=True) / np.maximum(1, count)
        variance = np.where(chosen, np.square(mine - mean), 0.0).sum(1, keepdims=True) / np.maximum(1, count)
        scores[:, kind] = np.where(count >= 2, (mine - mean) / (np.sqrt(variance) + 1e-6), 0.0)
    return np.clip(scores, -Z_BOUND, Z_BOUND)


def _rank(values: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Share of a row's counted entries that are smaller, in [0, 1]; 0 where nothing counts."""
    ranks = np.zeros_like(values)
    for row, (mine, chosen) in enumerate(zip(values, counted, strict=True)):
        pool = np.sort(mine[chosen])
        if len(pool) > 1:
            ranks[row] = np.searchsorted(pool, mine, side="left") / (len(pool) - 1)
    return np.minimum(ranks, 1.0)


def _layer_rank(values: np.ndarray, active: np.ndarray, parts: list[slice]) -> np.ndarray:
    """(n, L, U) share of a layer's other active units of the same kind that are smaller; 0 where fewer than two are active."""
    ranks = np.zeros(values.shape)
    for part in parts:
        mine, chosen = values[..., part], active[..., part]
        smaller = (mine[..., None, :] < mine[..., :, None]) & chosen[..., None, :]  # (n, L, u, u)
        others = chosen.sum(-1, keepdims=True) - 1
        ranks[..., part] = np.where(others > 0, smaller.sum(-1) / np.maximum(1, others), 0.0)
    return np.minimum(ranks, 1.0)


def _layer_z(values: np.ndarray, active: np.ndarray, parts: list[slice]) -> np.ndarray:
    """(n, L, U) z-score among the layer's active units of the same kind; 0 where fewer than two are active."""
    scores = np.zeros(values.shape)
    for part in parts:
        mine, chosen = values[..., part], active[..., part]
        count = np.maximum(1, chosen.sum(-1, keepdims=True))
        mean = np.where(chosen, mine, 0.0).sum(-1, keepdims=True) / count
        spread = np.sqrt(np.where(chosen, np.square(mine - mean), 0.0).sum(-1, keepdims=True) / count)
        scores[..., part] = np.where(chosen.sum(-1, keepdims=True) > 1, (mine - mean) / np.maximum(spread, TINY), 0.0)
    return np.clip(scores, -Z_BOUND, Z_BOUND)


def _layer_mean_z(values: np.ndarray, active: np.ndarray, parts: list[slice]) -> np.ndarray:
    """(n, L, U) z-score over layers of the mean log of their active units' positive values, of one kind of unit each."""
    scores = np.zeros(values.shape)
    for part in parts:
        mine = values[..., part]
        counted = active[..., part] & (mine > 0)
        count = counted.sum(-1)  # (n, L)
        mean = np.where(counted, np.log(np.maximum(mine, TINY)), 0.0).sum(-1) / np.maximum(1, count)
        z = _z_score(mean, count > 0, [np.ones(mean.shape[1], dtype=bool)])
        scores[..., part] = np.where(count > 0, z, 0.0)[..., None]  # a layer without such units has no mean
    return scores


def _log_ratio(now: np.ndarray, first: np.ndarray) -> np.ndarray:
    """log(now / first); 0 where either is not positive."""
    known = (now > 0) & (first > 0)
    return np.where(known, np.log(np.maximum(now, TINY)) - np.log(np.maximum(first, TINY)), 0.0)
