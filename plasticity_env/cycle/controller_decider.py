"""Controllers in an experiment: they see what the environments would show them, and their edits keep the same limits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from plasticity_env.cycle.deciders import Decider, Decision, Situation
from plasticity_env.envs.edits import EDITS, Limits, allowed_edits, resolve
from plasticity_env.envs.head_tokens import HeadState, head_tokens
from plasticity_env.envs.observation import Columns, Observation, head_column
from plasticity_env.model.modes import PruningMode


class ControllerLike(Protocol):
    """What of a controller is used (see ``controllers.Controller``)."""

    name: str

    def reset(self, seed: int | None = None) -> None: ...

    def act(self, observation: Observation) -> Any: ...


class ControllerDecider(Decider):
    """A controller that decides; a run is one episode to it.

    A resumed run shows the controller all its observations again, so that whatever it remembers of them is the same.

    Args:
        controller: Reads observations and answers with (N,) edits.
        seed: Seed of its own random choices.
    """

    needs_obs = True
    needs_residual = True
    grows = True

    def __init__(self, controller: ControllerLike, seed: int = 0) -> None:
        self.controller, self.name = controller, controller.name
        self._seen: list[Observation] = []
        controller.reset(seed)

    def decide(self, situation: Situation) -> Decision:
        observation = observe(situation, first_fisher(self._seen[0]) if self._seen else None)
        self._seen.append(observation)
        action = self.controller.act(observation)
        decision = decision_of(situation, action, f"{self.name} chose it", getattr(self.controller, "reasons", {}))
        return replace(decision, details={**decision.details, **getattr(self.controller, "details", {})})

    def state_dict(self) -> dict[str, Any]:
        return {"seen": [{name: torch.from_numpy(value) for name, value in seen.items()} for seen in self._seen]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._seen = [_shown({name: value.numpy() for name, value in seen.items()}) for seen in state["seen"]]
        for observation in self._seen:
            self.controller.act(observation)


def limits_of(situation: Situation) -> Limits:
    """What no decision may break: the mode, and the level as the largest share that may be pruned."""
    return Limits(situation.model.mode, situation.trains, 0, situation.count, None)


def first_fisher(observation: Observation) -> Tensor:
    """(N,) Fisher scores of a run's first observation, for `observe`."""
    return torch.from_numpy(head_column(observation, "fisher").copy())


def observe(situation: Situation, first: Tensor | None = None) -> Observation:
    """What ``plasticity/Heads-v1`` would show of a situation; decisions are its steps.

    Args:
        situation: Situation to show.
        first: `first_fisher` of the run's first observation; None where this is the first.
    """
    active, costs = situation.active, situation.costs
    layers, units = active.shape
    dense = costs.total(torch.ones_like(active))
    limits = limits_of(situation)
    state = HeadState(
        active[None],
        situation.model.gates[None],
        situation.age[None],
        costs.marginal(active)[None] / dense,
        costs.group_size,
        situation.model.heads,
        first,
    )
    pruned = int((~active).sum())
    decision = min(situation.decision, situation.decisions - 1)
    values: dict[str, float | np.ndarray] = {
        "step": decision / situation.decisions,
        "steps_left": situation.decisions - decision,
        "horizon": situation.decisions,
        "active_share": 1 - pruned / active.numel(),
        "log_flops_kept": math.log(costs.total(active) / dense),
        "log_ppl_kept": situation.control_loss - situation.loss,
        "flop_price": situation.flop_price,
        "log_flop_price": math.log(situation.flop_price),
        "budget": 0.0,
        "target_share": 0.0,
        "due_share": 0.0,
        "max_sparsity": limits.max_pruned / active.numel(),
        "prunable": max(0, limits.max_pruned - pruned) / active.numel(),
        "compressed": float(limits.mode is PruningMode.COMPRESSED),
        "trains": float(limits.trains),
        "repairs": float(situation.repairs),
        "log_layers": math.log(layers),
        "log_heads": math.log(situation.model.heads),
        "log_mlp_blocks": math.log1p(units - situation.model.heads),
    }
    hide = limits.mode is PruningMode.COMPRESSED
    return _shown(
        {
            "heads": head_tokens(state, [situation.signals], hide_pruned=hide)[0],
            "globals": Columns.of().global_vectors(values, 1)[0],
            "action_mask": allowed_edits(active, limits, costs).flatten(0, 1).numpy().astype(np.int8),  # (N, 4)
        }
    )


def _shown(values: dict[str, np.ndarray]) -> Observation:
    return Observation("heads", values)


def decision_of(
    situation: Situation, action: Any, reason: str, reasons: Mapping[int, str] = MappingProxyType({})
) -> Decision:
    """A controller's (N,) edits as a decision that breaks no limit.

    Args:
        situation: Situation in which it acted.
        action: 0 keep, 1 prune, 2 revive, 3 grow for each head.
        reason: Reason of every edit that has none of its own.
        reasons: Reasons of single edits, by the head's flat number.
    """
    active = situation.active
    edits = torch.as_tensor(np.asarray(action)).view(active.shape)
    masks, dropped = resolve(active, edits, limits_of(situation), situation.costs, situation.signals.fisher)
    asked = {name: int((edits == number).sum()) for number, name in enumerate(EDITS) if number}
    wheres: Tensor = masks.prune | masks.revive | masks.grow
    said = {
        (layer, head): reasons.get(layer * active.shape[1] + head, reason) for layer, head in wheres.nonzero().tolist()
    }
    return Decision(masks.prune, masks.revive, masks.grow, said, {"asked": asked, "dropped": dropped})
