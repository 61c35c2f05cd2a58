"""What a controller sees: head tokens, a few global numbers, and what it may do.

Every rule and network reads this and nothing else. Columns are named, so a controller asks for what it needs and a
checkpoint can say which columns it was trained on. Raw columns serve absolute thresholds; the normalised ones (suffix
``_z`` for a z-score over the active heads, ``_rank`` for a rank in [0, 1]) mean the same on models of any size.

Names, order and bounds belong to the version of an environment's id and never change under it. Signals that an environment
was asked for by name stand behind them (see `plasticity_env.signals.signal`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import wrapt
from gymnasium import spaces

from plasticity_env.common.errors import InputError, unknown
from plasticity_env.signals.signal import SIGNALS, Signal
from plasticity_env.signals.slopes import KINDS, SCORES

RAW_BOUND = 1e9
Z_BOUND = 5.0
DRIFT_BOUND = 4.0  # nats
RESIDUAL = tuple(f"{kind}_{score}" for kind in KINDS for score in SCORES)
Bounds = dict[str, tuple[float, float]]

# name -> (low, high)
HEAD_FEATURES: Bounds = {
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
GLOBAL_FEATURES: Bounds = {
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
    if name not in {"age", "entropy"} and (name not in SIGNALS or name == "entropy_normalized")
)
NETWORK_GLOBAL_FEATURES = tuple(name for name in GLOBAL_FEATURES if name not in {"steps_left", "horizon", "flop_price"})
# the (heads, globals) of each version of the ids; v1 clips what networks read to bounds of order 10
VERSIONS: tuple[tuple[Bounds, Bounds], ...] = (
    (HEAD_FEATURES, GLOBAL_FEATURES),
    (HEAD_FEATURES, {**GLOBAL_FEATURES, "log_flops_kept": (-16, 16), "log_ppl_kept": (-16, 16)}),
)

EnvKind = Literal["heads", "head_edit", "head_rank", "levels"]
_HEAD_INDEX = {name: index for index, name in enumerate(HEAD_FEATURES)}
_GLOBAL_INDEX = {name: index for index, name in enumerate(GLOBAL_FEATURES)}


class Observation(dict[str, np.ndarray]):
    """``heads``, ``globals`` and ``action_mask``, with the kind of environment that shows them; else a dictionary like any other.

    Args:
        kind: Kind of the environment.
        values: Arrays by name.
        extra: Names of the head columns behind those of its version, in order.
    """

    def __init__(self, kind: EnvKind, values: Mapping[str, np.ndarray], extra: tuple[str, ...] = ()) -> None:
        super().__init__(values)
        self.kind, self.extra = kind, extra

    def but(self, **values: np.ndarray) -> Observation:
        """The same with other values."""
        return Observation(self.kind, {**self, **values}, self.extra)

    def row(self, index: int) -> Observation:
        """What one environment of several shows."""
        return Observation(self.kind, {name: values[index] for name, values in self.items()}, self.extra)

    @classmethod
    def register_with_jax(cls, tree_util: Any) -> None:
        """Let JAX, and with it Minari's collector, look into an observation as into a plain dictionary.

        Args:
            tree_util: The module ``jax.tree_util``.
        """
        tree_util.register_pytree_node(
            cls,
            lambda shown: (tuple(shown.values()), (shown.kind, tuple(shown), shown.extra)),
            lambda said, values: cls(said[0], dict(zip(said[1], values, strict=True)), said[2]),
        )


wrapt.register_post_import_hook(Observation.register_with_jax, "jax.tree_util")


def kind_of(observation: Mapping[str, np.ndarray]) -> EnvKind:
    """The kind of environment that shows this.

    Raises:
        InputError: A plain dictionary, which does not say.
    """
    if not isinstance(observation, Observation):
        raise InputError(
            f"an observation must say its environment's kind, got a plain {type(observation).__name__}: pass what the "
            "environment returned, or Observation('heads', ...), 'head_edit' or 'head_rank' from plasticity_env.envs.observation"
        )
    return observation.kind


@dataclass(frozen=True)
class Columns:
    """The columns of an environment's observations: names, order and bounds.

    Attributes:
        heads: Columns of the head tokens, those of asked-for signals behind those of the version.
        globals: Columns of the global features.
        extra: Names of the former.
        sources: Sources of every column that is a signal's: the signal, and what is made of it ("" the raw value, "_z",
            "_rank" or "_per_flop_z").
    """

    heads: Bounds
    globals: Bounds
    extra: tuple[str, ...]
    sources: Mapping[str, tuple[Signal, str]]

    @classmethod
    def of(cls, version: int = 0, signals: Sequence[str] = ()) -> Columns:
        """The columns of a version of the ids, with some registered signals behind its own columns.

        Raises:
            InputError: No such version or signal, or a signal whose columns are there already.
        """
        if version not in range(len(VERSIONS)):
            raise unknown("version of an environment", str(version), map(str, range(len(VERSIONS))))
        heads, globals_ = VERSIONS[version]
        heads = dict(heads)
        sources: dict[str, tuple[Signal, str]] = {}
        for name in signals:
            own = signal_columns(SIGNALS.find(name))
            if doubled := sorted(set(own) & set(heads)):
                raise InputError(f"signal {name!r} would add the column {doubled[0]!r}, which is there already")
            heads |= own
        for signal in SIGNALS.values():
            stem = signal.stem or signal.name
            sources |= {f"{stem}{suffix}": (signal, suffix) for suffix in ("_z", "_rank", "_per_flop_z")}
            sources[signal.name] = signal, ""
        extra = tuple(heads)[len(VERSIONS[version][0]) :]
        return cls(heads, globals_, extra, {name: sources[name] for name in heads if name in sources})

    @cached_property
    def head_bounds(self) -> np.ndarray:
        """(2, F) float32: the lowest and the highest values of the head tokens."""
        return np.array(list(self.heads.values()), dtype=np.float32).T

    @cached_property
    def global_bounds(self) -> np.ndarray:
        """(2, G) float32: the same of the global features."""
        return np.array(list(self.globals.values()), dtype=np.float32).T

    def space(self, heads: int, action_mask: tuple[int, ...]) -> spaces.Dict:
        """Space of an environment with ``heads`` head slots and an action mask of the given shape."""
        (low, high), shared = self.head_bounds, self.global_bounds
        return spaces.Dict(
            {
                "heads": spaces.Box(np.tile(low, (heads, 1)), np.tile(high, (heads, 1)), dtype=np.float32),
                "globals": spaces.Box(shared[0], shared[1], dtype=np.float32),
                "action_mask": spaces.Box(0, 1, action_mask, dtype=np.int8),
            }
        )

    @cached_property
    def network_columns(self) -> tuple[list[int], list[int]]:
        """Numbers of the head columns and of the global ones that networks learn from, those of asked-for signals included."""
        own = [name for name in self.extra if name.endswith(("_z", "_rank"))]
        heads, globals_ = list(self.heads), list(self.globals)
        return (
            [heads.index(name) for name in (*NETWORK_HEAD_FEATURES, *own)],
            [globals_.index(name) for name in NETWORK_GLOBAL_FEATURES],
        )

    def flat(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """One vector of an observation: `NETWORK_HEAD_FEATURES` of each unit in turn, `NETWORK_GLOBAL_FEATURES`, the action mask.

        Args:
            observation: Observation of one environment, or of N with N in front of every shape.

        Returns:
            (..., D) float32; D belongs to the model, since it grows with the units.
        """
        heads, globals_ = self.network_columns
        front = observation["globals"].shape[:-1]
        parts = (observation["heads"][..., heads], observation["globals"][..., globals_], observation["action_mask"])
        return np.concatenate([part.reshape(*front, -1).astype(np.float32) for part in parts], axis=-1)

    def flat_space(self, heads: int, action_mask: tuple[int, ...]) -> spaces.Box:
        """Space of flat observations, for the arguments that `space` takes."""
        whole = self.space(heads, action_mask)
        edges = [{name: getattr(box, edge) for name, box in whole.items()} for edge in ("low", "high")]
        low, high = map(self.flat, edges)
        return spaces.Box(low, high, dtype=np.float32)

    def global_vectors(self, values: Mapping[str, float | np.ndarray], masks: int) -> np.ndarray:
        """Build the (n, G) global features from a value for each name, (n,) or one for all."""
        table = np.empty((masks, len(self.globals)), dtype=np.float32)
        for column, name in enumerate(self.globals):
            table[:, column] = values[name]
        return np.clip(table, *self.global_bounds, out=table)


def signal_columns(signal: Signal) -> Bounds:
    """Columns that an asked-for signal adds, with their bounds."""
    stem = signal.stem or signal.name
    columns = {signal.name: signal.bounds, f"{stem}_z": (-Z_BOUND, Z_BOUND), f"{stem}_rank": (0.0, 1.0)}
    return columns | ({f"{stem}_per_flop_z": (-Z_BOUND, Z_BOUND)} if signal.per_flop else {})


def head_column(observation: Observation, name: str) -> np.ndarray:
    """(N,) one named head feature.

    Raises:
        InputError: The observation has no such column.
    """
    index = _HEAD_INDEX.get(name)
    if index is None:
        extra = getattr(observation, "extra", ())
        if name not in extra:
            way = f"; make the environment with signals=({name!r},)" if name in SIGNALS else ""
            raise unknown("column of the observation", name, [*HEAD_FEATURES, *extra], way)
        index = len(HEAD_FEATURES) + extra.index(name)
    return observation["heads"][:, index]


def global_value(observation: Observation, name: str) -> float:
    """One named global feature."""
    return float(observation["globals"][_GLOBAL_INDEX[name]])


def head_columns(names: tuple[str, ...]) -> list[int]:
    """Column numbers of head features."""
    return [_HEAD_INDEX[name] for name in names]


def global_columns(names: tuple[str, ...]) -> list[int]:
    """Column numbers of global features."""
    return [_GLOBAL_INDEX[name] for name in names]
