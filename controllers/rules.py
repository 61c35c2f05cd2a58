"""PlasticityController: the classic rule of thresholds on entropy and gradient."""

from __future__ import annotations

from collections import deque
from typing import Literal

import numpy as np

from plasticity_env.common.errors import InputError
from plasticity_env.common.values import check_number, plain_value
from plasticity_env.controllers.base import Action, Controller, as_action, wants_scores
from plasticity_env.envs.edits import KEEP, PRUNE, REVIVE
from plasticity_env.envs.observation import Observation, head_column
from plasticity_env.strategies.thresholds import Thresholds

Direction = Literal["high", "low", "auto"]


class PlasticityController(Controller):
    """Prunes heads that look idle and revives those that look needed.

    A head is pruned when its entropy is on the prune side of its threshold *and* its gradient is low; it is revived when its
    entropy is on the other side *and* its gradient is high *and* it has been pruned for ``min_zeroed_epochs`` decisions.
    Otherwise it stays as it is. Signals are averaged over the last ``history`` observations of the episode. Each decision
    leaves its numbers in ``reasons`` and the side that it pruned in ``details``.

    Thresholds are absolute (``entropy_threshold`` in nats, ``gradient_threshold`` in nats) where given, else quantiles over
    the active heads: ``aggressiveness`` a prunes where entropy lies in the a-share on the prune side and gradient in the
    lowest a-share. Revival uses the mirrored quantiles.

    On HeadRank, which says how many heads go, those that the thresholds prune (and pruned ones that they do not revive) go
    before all others. Among either, the order is that of the gradient's rank less ``entropy_weight`` times the rank on the
    prune side of the entropy.

    Args:
        prune_entropy: Which heads count as idle: those of "high" or of "low" entropy; "auto" measures at every decision:
            high where entropy and Fisher score are negatively rank-correlated over all heads that are seen, else low.
        aggressiveness: a in [0, 1].
        gradient_power: The gradient's quantiles are those of a to this power: above 1 fewer heads count as quiet.
        entropy_weight: Say of the entropy in the order of heads on HeadRank; 0: the gradient alone.
        entropy_threshold: An absolute threshold, in nats.
        gradient_threshold: Absolute, nats of loss per unit of gate.
        min_zeroed_epochs: Decisions a head stays pruned at least.
        max_prune_rate: Largest share of all heads pruned in one decision, lowest gradient first; above 0 it allows one head.
        history: Observations that are averaged.
        revives: Whether to revive at all.

    Raises:
        InputError: An option outside its range.
    """

    name = "plasticity"

    def __init__(
        self,
        prune_entropy: Direction = "auto",
        aggressiveness: float = 0.4,
        entropy_threshold: float | None = None,
        gradient_threshold: float | None = None,
        min_zeroed_epochs: int = 2,
        max_prune_rate: float = 1.0,
        history: int = 3,
        revives: bool = True,
        gradient_power: float = 1.0,
        entropy_weight: float = 0.0,
    ) -> None:
        if prune_entropy not in ("high", "low", "auto"):
            raise InputError(f"prune_entropy must be 'high', 'low' or 'auto', got {prune_entropy!r}")
        aggressiveness = check_number("aggressiveness", plain_value(aggressiveness), 0, 1)
        for option, value in (("gradient_power", gradient_power), ("entropy_weight", entropy_weight)):
            check_number(option, plain_value(value), 0)
        checked = Thresholds(entropy_threshold, gradient_threshold, min_zeroed_epochs, max_prune_rate, history)
        self.prune_entropy, self.aggressiveness, self.entropy_weight = prune_entropy, aggressiveness, entropy_weight
        self.gradient_power = gradient_power
        self.entropy_threshold, self.gradient_threshold = checked.entropy_threshold, checked.gradient_threshold
        self.min_zeroed_epochs, self.max_prune_rate, self.revives = min_zeroed_epochs, max_prune_rate, revives
        self._entropy: deque[np.ndarray] = deque(maxlen=checked.history)
        self._gradient: deque[np.ndarray] = deque(maxlen=checked.history)
        self.direction: Literal["high", "low"] | None = None if prune_entropy == "auto" else prune_entropy
        self.reset()

    def reset(self, seed: int | None = None) -> None:
        super().reset(seed)
        self._entropy.clear()
        self._gradient.clear()
        if self.prune_entropy == "auto":
            self.direction = None

    def act(self, observation: Observation) -> Action:
        active = head_column(observation, "active") > 0.5
        if self.prune_entropy == "auto":
            self.direction = measured_direction(observation)
        raw = self.entropy_threshold is not None
        self._entropy.append(head_column(observation, "entropy" if raw else "entropy_normalized").astype(np.float64))
        self._gradient.append(head_column(observation, "gradient").astype(np.float64))
        entropy, gradient = np.mean(self._entropy, 0), np.mean(self._gradient, 0)
        side = entropy if self.direction == "high" else -entropy  # larger = more idle
        edits = np.full(len(active), KEEP)
        mlp = head_column(observation, "is_mlp") > 0  # has no entropy: its gradient alone decides
        heads = active & ~mlp
        cuts = {
            edit: (self._entropy_cut(side[heads], edit == PRUNE), self._gradient_cut(gradient[active], edit == PRUNE))
            for edit in (PRUNE, REVIVE)
        }
        idle = mlp | (side >= cuts[PRUNE][0])
        quiet = gradient <= cuts[PRUNE][1]
        candidates = np.flatnonzero(active & idle & quiet)
        limit = int(np.floor(self.max_prune_rate * len(active) + 1e-9))
        limit = max(limit, 1) if self.max_prune_rate > 0 else 0
        edits[candidates[np.argsort(gradient[candidates], kind="stable")][:limit]] = PRUNE
        if self.revives:
            busy = mlp | (side < cuts[REVIVE][0])
            loud = gradient > cuts[REVIVE][1]
            rested = head_column(observation, "age") >= self.min_zeroed_epochs
            edits[~active & busy & loud & rested] = REVIVE
        self.details = {"direction": self.direction}
        self.reasons = {
            unit: self._reason(None if mlp[unit] else entropy[unit], gradient[unit], *cuts[edits[unit]])
            for unit in np.flatnonzero(edits != KEEP).tolist()
        }
        if wants_scores(observation):
            order = rank_among(gradient, active)
            order[~mlp] -= self.entropy_weight * rank_among(side, heads)[~mlp]
            return as_action(observation, edits, -order)
        urgency = np.where(edits == PRUNE, -gradient, gradient)
        return as_action(observation, edits, urgency)

    def _reason(self, entropy: float | None, gradient: float, entropy_cut: float, gradient_cut: float) -> str:
        """The two comparisons behind an edit, in numbers."""
        said = f"gradient {_compared(gradient, gradient_cut)}"
        if entropy is not None:
            unit = " nats" if self.entropy_threshold is not None else " of the highest possible"
            cut = entropy_cut if self.direction == "high" else -entropy_cut
            said = f"entropy {_compared(entropy, cut)}{unit} and {said}"
        seen = len(self._gradient)
        return said if seen == 1 else f"{said} (means of {seen} measurements)"

    def _entropy_cut(self, side: np.ndarray, prune: bool) -> float:
        if self.entropy_threshold is not None:
            return self.entropy_threshold if self.direction == "high" else -self.entropy_threshold
        return _quantile(side, 1 - self.aggressiveness if prune else self.aggressiveness)

    def _gradient_cut(self, gradient: np.ndarray, prune: bool) -> float:
        if self.gradient_threshold is not None:
            return self.gradient_threshold
        share = self.aggressiveness**self.gradient_power
        return _quantile(gradient, share if prune else 1 - share)


def measured_direction(observation: Observation) -> Literal["high", "low"]:
    """Tell which entropy marks idle heads here: "high" where Fisher falls with entropy over the heads that are seen, else "low".

    A pruned head is seen where it may come back: its attention is computed and its score is that of the closed gate.
    """
    active = head_column(observation, "active") > 0.5
    fisher, entropy = head_column(observation, "fisher"), head_column(observation, "entropy_normalized")
    seen = (active | (fisher > 0)) & (head_column(observation, "is_mlp") == 0)
    entropy, fisher = entropy[seen], fisher[seen]
    if len(entropy) < 3:
        return "high"
    ranks = [values.argsort(kind="stable").argsort(kind="stable") for values in (entropy, fisher)]
    return "high" if np.corrcoef(ranks[0], ranks[1])[0, 1] < 0 else "low"


def rank_among(values: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """(N,) share of the counted entries that are smaller than each entry, in [0, 1]; 0 where nothing counts."""
    pool = np.sort(values[counted])
    return np.searchsorted(pool, values, side="left") / max(1, len(pool))


def _compared(value: float, cut: float) -> str:
    """ "0.004 < 0.009", in three digits, in more where these would hide the difference."""
    same = bool(np.isclose(value, cut, rtol=1e-6, atol=0))  # observations are single precision
    sign = "=" if same else ">" if value > cut else "<"
    digits = next((count for count in range(3, 8) if not same and f"{value:.{count}g}" != f"{cut:.{count}g}"), 3)
    return f"{value:.{digits}g} {sign} {cut:.{digits}g}"


def _quantile(values: np.ndarray, share: float) -> float:
    if share <= 0:
        return float(values.min(initial=np.inf)) - 1e-12 if len(values) else -np.inf
    if share >= 1:
        return float(values.max(initial=-np.inf)) if len(values) else np.inf
    return float(np.quantile(values, share)) if len(values) else np.inf
