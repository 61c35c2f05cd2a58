"""The online controller as the decision maker of an experiment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from plasticity_env.agents.online.bounds import Bounded, PruneBounds, Side
from plasticity_env.agents.online.online import Choice, OnlineLearner
from plasticity_env.agents.online.ranked_start import START, calibrate
from plasticity_env.agents.online.returns import Returns
from plasticity_env.cycle.controller_decider import decision_of, first_fisher, observe
from plasticity_env.cycle.deciders import Decider, Decision, Situation
from plasticity_env.envs.edits import EDITS, GROW, PRUNE, REVIVE


class OnlineDecider(Decider):
    """Plays an `OnlineLearner` in the training loop; after each decision's phase it learns from what that earned.

    Args:
        learner: The policy, trained in place.
        bounds: What it may prune; what may come back is measured (`Returns`).
        on_change: Called after each decision and after each lesson.

    Attributes:
        history: One entry a decision: ``step``, counts of edits (growth that a trial took back is counted as ``taken_back``),
            the policy's entropy, what the bounds left, and, once it is paid, the lesson.
        edits: A sentence for each edit of the latest decision.
    """

    needs_obs = True
    needs_residual = True
    grows = True

    def __init__(
        self,
        learner: OnlineLearner,
        bounds: PruneBounds | None = None,
        on_change: Callable[[OnlineDecider], None] | None = None,
    ) -> None:
        self.learner, self.bounds, self.on_change = learner, bounds or PruneBounds(), on_change
        self.name = f"{learner.controller.name} (online)"
        self.side: Side | None = None
        self.history: list[dict[str, Any]] = []
        self.edits: list[str] = []
        self._first: Tensor | None = None  # Fisher scores of the first observation

    def decide(self, situation: Situation) -> Decision:
        if self.side is None:
            heads = situation.active.clone()
            heads[:, situation.model.heads :] = False
            self.side = self.bounds.side(situation.signals, heads)
        bounded = self.bounds.measure(situation.signals, situation.active, self.side, situation.model.heads)
        observation = observe(situation, self._first)
        if self._first is None:
            self._first = first_fisher(observation)
        mask = observation["action_mask"].copy()
        mask[:, PRUNE] &= bounded.prunable.flatten().numpy().astype(mask.dtype)
        returns = Returns.of(situation)
        mask[:, [REVIVE, GROW]] &= returns.worth.flatten().numpy().astype(mask.dtype)[:, None]
        observation["action_mask"] = mask
        calibrate(self.learner.controller, observation, situation.count - int((~situation.active).sum()))
        choice = self.learner.choose(observation)
        decision = decision_of(situation, choice.edits, "")
        reasons = {
            where: self._reason(choice, bounded, situation.active.shape[1], *where) for where in decision.reasons
        }
        made = {name: int(edit.sum()) for name, edit in decision.edits}
        entry: dict[str, Any] = {"step": situation.step, "cycle": situation.cycle, **made, "log_prob": choice.log_prob}
        entry |= {
            "policy_entropy": choice.entropy,
            **bounded.details(),
            "bounds": f"{bounded.sentence()}{returns.sentence()}",
        }
        self.history.append(entry)
        self.edits = [
            f"{name} {layer}.{head}: {reasons[layer, head]}"
            for name, edit in decision.edits
            for layer, head in edit.nonzero().tolist()
        ]
        self._changed()
        return replace(decision, reasons=reasons, details={**decision.details, **entry})

    def taken_back(self, heads: Tensor) -> None:
        self.learner.take_back(heads.flatten())
        if self.history:
            count = int(heads.sum())
            self.history[-1] |= {"grow": self.history[-1]["grow"] - count, "taken_back": count}

    def learn(self, reward: float) -> None:
        lesson = self.learner.learn(reward)
        if lesson is not None and self.history:
            self.history[-1] |= {name: value for name, value in lesson.to_json().items() if name != "log_prob"}
            self._changed()

    def state_dict(self) -> dict[str, Any]:
        return {
            "learner": self.learner.state_dict(),
            "side": self.side,
            "history": [dict(e) for e in self.history],
            "first": self._first,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.learner.load_state_dict(state["learner"])
        self.side, self.history = state["side"], [dict(entry) for entry in state["history"]]
        self._first = state.get("first")
        if self.history:
            self.learner.controller.info.pop(START, None)  # what was loaded is calibrated

    def _changed(self) -> None:
        if self.on_change is not None:
            self.on_change(self)

    def _reason(self, choice: Choice, bounded: Bounded, heads: int, layer: int, head: int) -> str:
        slot = layer * heads + head
        edit = int(choice.edits[slot])
        text = f"the network chose to {EDITS[edit]} it with probability {choice.probabilities[slot, edit]:.2f}"
        if edit == PRUNE:
            threshold = self.bounds.entropy_threshold if bool(bounded.is_head[layer, head]) else None
            sign = (
                "" if threshold is None else f"entropy {'>=' if bounded.side == 'high' else '<='} {threshold:g} nats, "
            )
            text += f" ({sign}Fisher <= the {self.bounds.importance_threshold:g} quantile)"
        return text
