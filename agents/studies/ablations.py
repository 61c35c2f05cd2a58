"""The shipped controller with a part of what it sees taken away: players that tell whether it uses its state.

Each is an entry point for the leaderboard, such as ``plasticity_env.agents.studies.ablations:noise``; all load the controller
that ``ann`` is.

>>> A=plasticity_env.agents.studies.ablations
>>> python scripts/leaderboard.py --models bard-neox-5x6 --players ann,$A:noise --versus ann
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from plasticity_env.controllers.ann import ANNController
from plasticity_env.controllers.base import Action, Controller
from plasticity_env.controllers.shipped import shipped_folder
from plasticity_env.envs.observation import HEAD_FEATURES, Observation, head_column, head_columns
from plasticity_env.signals.slopes import KINDS

STRUCTURE = ("depth", "layer_active", "group_active")
GROUPS = {  # name -> prefixes of the columns that it is
    "gradients": ("fisher", "gradient", "gate_gradient", "layer_fisher", "sensitivity"),
    "residuals": ("residual", "crossfit", "overfit", "layer_residual", "layer_mean"),
    "crossfit": ("crossfit", "overfit"),
    "tokens": tuple(f"{kind}_{score}" for kind in KINDS for score in ("token_fisher", "kfac")),
    "stepwise": tuple(f"{kind}_stepwise" for kind in KINDS),
    "entropy": ("entropy",),
    "outputs": ("activation", "magnitude", "fluctuation", "layer_fluctuation", "obs"),
    "structure": STRUCTURE,
}
_STATE = ("active", "is_mlp", "gate", "age", "flop_share", *STRUCTURE)
SIGNALS = tuple(name for name in HEAD_FEATURES if name not in _STATE)
Change = Callable[[np.ndarray, Observation, np.random.Generator], None]


class Altered(Controller):
    """A controller that sees a changed observation.

    Args:
        name: What it is called in tables.
        inner: Controller that decides.
        change: Called with a copy of the (N, F) head features, the observation and the random generator; changes the copy.
    """

    def __init__(self, name: str, inner: Controller, change: Change) -> None:
        self.name, self._inner, self._change = name, inner, change
        self.reset(0)

    def reset(self, seed: int | None = None) -> None:
        super().reset(seed)
        self._inner.reset(seed)

    def act(self, observation: Observation) -> Action:
        if isinstance(self._inner, ANNController):
            self._inner.check(observation)  # what it sees below may read as if it had not been measured
        heads = observation["heads"].copy()
        self._change(heads, observation, self.random)
        return self._inner.act(observation.but(heads=heads))


class FirstLook(Controller):
    """Ranks once, by the dense model's signals, and never looks again."""

    name = "first_look"

    def __init__(self, inner: Controller) -> None:
        self._inner = inner
        self.reset(0)

    def reset(self, seed: int | None = None) -> None:
        super().reset(seed)
        self._inner.reset(seed)
        self._first: Action | None = None

    def act(self, observation: Observation) -> Action:
        if self._first is None:
            self._first = self._inner.act(observation)
        return self._first


def noise() -> Controller:
    """Every signal of a head is that of another, drawn anew for each column: right in distribution, wrong in place."""

    def change(heads: np.ndarray, observation: Observation, random: np.random.Generator) -> None:
        active = np.flatnonzero(head_column(observation, "active") > 0.5)
        for column in head_columns(SIGNALS):
            heads[active, column] = heads[random.permutation(active), column]

    return Altered("noise", _shipped(), change)


def shuffled() -> Controller:
    """Active heads trade all their signals, so that the layers' patterns are there and tell nothing of the layers."""

    def change(heads: np.ndarray, observation: Observation, random: np.random.Generator) -> None:
        active = np.flatnonzero(head_column(observation, "active") > 0.5)
        columns = np.array(head_columns(SIGNALS))
        heads[np.ix_(active, columns)] = heads[np.ix_(random.permutation(active), columns)]

    return Altered("shuffled", _shipped(), change)


def without(group: str) -> Controller:
    """A group of columns reads the same for every active head: their mean."""
    names = tuple(name for name in HEAD_FEATURES if name.startswith(GROUPS[group]))

    def change(heads: np.ndarray, observation: Observation, random: np.random.Generator) -> None:
        active = np.flatnonzero(head_column(observation, "active") > 0.5)
        columns = np.array(head_columns(names))
        heads[np.ix_(active, columns)] = heads[np.ix_(active, columns)].mean(0, keepdims=True)

    return Altered(f"without_{group}", _shipped(), change)


def without_gradients() -> Controller:
    """Without the slopes of plain removal."""
    return without("gradients")


def without_residuals() -> Controller:
    """Without the slopes of removal with repair."""
    return without("residuals")


def without_crossfit() -> Controller:
    """Without the cross-fitted ones of these."""
    return without("crossfit")


def without_tokens() -> Controller:
    """Without token Fisher and K-FAC, cross-fitted or not."""
    return without("tokens")


def without_stepwise() -> Controller:
    """Without what units cost once the cheaper ones of their layer are gone."""
    return without("stepwise")


def without_entropy() -> Controller:
    """Without attention entropy."""
    return without("entropy")


def without_outputs() -> Controller:
    """Without the scores of what heads write."""
    return without("outputs")


def without_structure() -> Controller:
    """Without depth and what is left of layers and groups."""
    return without("structure")


def first_look() -> Controller:
    """Ranks once and never looks again."""
    return FirstLook(_shipped())


def _shipped() -> ANNController:
    return ANNController.load(shipped_folder())
