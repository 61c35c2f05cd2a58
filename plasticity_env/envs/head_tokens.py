"""From measured signals to head tokens: raw values, z-scores, ranks, and how units stand in their layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from plasticity_env.envs.observation import Z_BOUND, Columns
from plasticity_env.signals.measure import HeadSignals
from plasticity_env.signals.signal import Signal

TINY = 1e-20  # where logs begin


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


def head_tokens(
    state: HeadState, signals: Sequence[HeadSignals], hide_pruned: bool, columns: Columns | None = None
) -> np.ndarray:
    """Build the (n, N, F) head features of n masks.

    Args:
        state: What the environments know.
        signals: What was measured of each mask.
        hide_pruned: Zero the signals of pruned heads (compressed mode: those heads are gone).
        columns: Columns of the observation; those of the ids' first version when None.
    """
    columns = Columns.of() if columns is None else columns
    units = _Units(state, signals)
    table = np.empty((*units.flat.shape, len(columns.heads)), dtype=np.float32)  # (n, N, F)
    for index, name in enumerate(columns.heads):
        if name in _KNOWN:
            values = _KNOWN[name](units)
        else:
            signal, made = columns.sources.get(name, (None, ""))
            values = _COMPARED[name](units) if signal is None else units.column(signal, made)
            if hide_pruned:
                values = np.where(units.flat, values.reshape(units.flat.shape), 0.0)
        table[..., index] = values.reshape(units.flat.shape)
    return np.clip(table, *columns.head_bounds, out=table)


class _Units:
    """Units of n masks, and what was measured of them, each signal stacked once."""

    def __init__(self, state: HeadState, signals: Sequence[HeadSignals]) -> None:
        self.state, self._signals = state, signals
        self.active = state.active.numpy()  # (n, L, U)
        masks, self.layers, self.units = self.active.shape
        self.flat = self.active.reshape(masks, -1)  # (n, N)
        self.is_mlp = np.tile(np.arange(self.units) >= state.heads, self.layers)  # (N,)
        self.kinds = [kind for kind in (~self.is_mlp, self.is_mlp) if kind.any()]
        self.parts = [slice(0, state.heads), slice(state.heads, self.units)][: len(self.kinds)]
        self.heads, self.blocks = self.active[..., : state.heads], self.active[..., state.heads :]
        self.flop_share = state.flop_share.numpy().reshape(self.flat.shape)
        self._raw: dict[str, np.ndarray] = {}

    def raw(self, name: str) -> np.ndarray:
        """(n, N) float64 of one signal; zeros where it was not measured."""
        if name not in self._raw:
            values = [getattr(measured, name) for measured in self._signals]
            self._raw[name] = (
                np.zeros(self.flat.shape)
                if values[0] is None
                else np.stack([value.numpy() for value in values]).reshape(self.flat.shape).astype(np.float64)
            )
        return self._raw[name]

    def layered(self, name: str) -> np.ndarray:
        """The same as (n, L, U)."""
        return self.raw(name).reshape(self.active.shape)

    def column(self, signal: Signal, made: str) -> np.ndarray:
        """(n, N) of what is made of a signal: its raw value, z-score, rank, or z-score per FLOP."""
        values = self.raw(signal.name)
        if not made:
            return values
        if made == "_rank":
            counted = self.flat & self.kinds[0] if signal.heads_only else self.flat
            ranks = _rank(values, counted)
            return ranks * self.kinds[0] if signal.heads_only else ranks
        if made == "_per_flop_z":
            costs = np.maximum(self.flop_share.astype(np.float64), TINY)
            logs = np.log(np.maximum(values / costs, TINY))
            return _z_score(logs, self.flat & (values > 0), [np.ones(len(self.is_mlp), dtype=bool)])
        if signal.scale == "signed":
            spread = np.sqrt(
                np.where(self.flat, np.square(values), 0.0).sum(1) / np.maximum(1, self.flat.sum(1))
            )  # (n,)
            return values / (spread[:, None] + 1e-12)
        kinds = self.kinds[:1] if signal.heads_only else self.kinds
        if signal.scale == "plain":
            return _z_score(values, self.flat, kinds)
        return _z_score(np.log(np.maximum(values, TINY)), self.flat & (values > 0), kinds)

    def of_groups(self) -> np.ndarray:
        """(n, L, U) share of a head's KV group that is active; of a block of neurons, whether it is."""
        size = self.state.group_size
        groups = self.heads.reshape(len(self.active), self.layers, -1, size).mean(3)
        return np.concatenate([np.repeat(groups, size, 2), self.blocks], 2)

    def drift(self) -> np.ndarray:
        """(n, N) log of the Fisher scores now over those when the episode began."""
        now, first = self.raw("fisher"), self.state.first_fisher
        return _log_ratio(now, now if first is None else first.numpy().reshape(now.shape).astype(np.float64))


# columns that the environment knows without measuring
_KNOWN: dict[str, Callable[[_Units], np.ndarray]] = {
    "active": lambda units: units.active,
    "is_mlp": lambda units: np.broadcast_to(units.is_mlp, units.flat.shape),
    "gate": lambda units: units.state.gate.numpy(),
    "age": lambda units: units.state.age,
    "depth": lambda units: np.broadcast_to(
        np.repeat(np.arange(units.layers) / max(1, units.layers - 1), units.units), units.flat.shape
    ),
    "layer_active": lambda units: np.concatenate(
        [np.repeat(_share(part), part.shape[2], 2) for part in (units.heads, units.blocks)], 2
    ),
    "group_active": _Units.of_groups,
    "flop_share": lambda units: units.flop_share,
}
# columns that compare a unit with its layer, layers with each other, and signals with one another
_COMPARED: dict[str, Callable[[_Units], np.ndarray]] = {
    "layer_fisher_rank": lambda units: _layer_rank(units.layered("fisher"), units.active, units.parts),
    "layer_residual_rank": lambda units: _layer_rank(units.layered("residual_fisher"), units.active, units.parts),
    "layer_fluctuation_z": lambda units: _layer_z(units.layered("fluctuation"), units.active, units.parts),
    "layer_mean_z": lambda units: _layer_mean_z(units.layered("residual_fisher"), units.active, units.parts),
    "overfit": lambda units: _log_ratio(units.raw("crossfit_fisher"), units.raw("residual_fisher")),
    "sensitivity_drift": _Units.drift,
}


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
