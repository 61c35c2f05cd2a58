"""N episodes over one frozen model, advanced together; what a vector environment shows is read off here."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plasticity_env.envs.episode import EpisodeState, draw_episode
from plasticity_env.envs.rewards import Terms
from plasticity_env.envs.task import Task, View
from plasticity_env.envs.workbench import Workbench

Infos = dict[str, Any]


class Episodes:
    """States of N episodes; each is replaced as a whole, none holds weights.

    Args:
        task: Rules that all share.
        bench: Measures their masks.
        count: Number N of episodes.
        show_mask: Brings (N, L * U, 4) allowed edits into the shape that the environment's observation has.
        more_infos: What infos say of an episode beside what is said here.

    Attributes:
        states: N, once each was started.
        invalid: (N,) edits dropped at each one's latest decision.
    """

    def __init__(
        self,
        task: Task,
        bench: Workbench,
        count: int,
        show_mask: Callable[[np.ndarray], np.ndarray] = lambda allowed: allowed.astype(np.int8),
        more_infos: Callable[[EpisodeState], dict[str, np.ndarray]] = lambda state: {},
    ) -> None:
        self._task, self._bench, self._show_mask, self._more_infos = task, bench, show_mask, more_infos
        self.states: list[EpisodeState] = []
        self.invalid = np.zeros(count, dtype=np.int64)
        self._terms: list[Terms] = [{} for _ in range(count)]
        self._view: View | None = None
        self._count = count

    @property
    def over(self) -> np.ndarray:
        """(N,) boolean, True where an episode has ended."""
        return np.array([state.done for state in self.states])

    def turn(
        self,
        going_on: list[int],
        edits: Tensor | None,
        starting: dict[int, np.random.Generator],
        options: dict[str, Any],
        stops: np.ndarray | None = None,
    ) -> np.ndarray:
        """Let some episodes take a decision and others start anew; all masks are measured in one go.

        Args:
            going_on: Episodes that take a decision.
            edits: (N, L, U) of each, 0 keep, 1 prune, 2 revive, 3 grow; None when none takes one.
            starting: Episodes that start, each with the generator that draws what the options leave open.
            options: Options of `draw_episode`.
            stops: (N,) boolean, True where the agent ends the episode with this decision; None where none does.

        Returns:
            (N,) rewards in nats; 0 for episodes that start or rest.
        """
        text, settings = self._bench.text, self._task.settings
        draws = {index: draw_episode(settings, text, random, options) for index, random in starting.items()}
        for draw in draws.values():
            self._task.check_targets(draw.share, draw.budget)
        masks = {}
        for index in going_on:
            assert edits is not None
            masks[index], self.invalid[index] = self._task.resolve(
                self.states[index], edits[index], self.view.allowed[index]
            )
        whole = torch.ones(self._task.shape, dtype=torch.bool)
        requests = [self.states[index].request(self.states[index].after(masks[index])) for index in going_on] + [
            draw.request(whole) for draw in draws.values()
        ]
        found = dict(zip([*going_on, *draws], self._bench.measure(requests), strict=True))
        self.states = self.states or [None] * self._count  # type: ignore[list-item]  # all start at first
        for index in going_on:
            state = self.states[index]
            done = state.step + 1 >= settings.horizon or (stops is not None and bool(stops[index]))
            self.states[index] = state.then(masks[index], found[index], done)
        for index, draw in draws.items():
            self.states[index] = EpisodeState.start(draw, found[index], (found[index].loss,), self._task.shape)
            self.invalid[index] = 0
        self._bench.keep_only({state.fitted for state in self.states})
        self._view = None
        rewards = np.zeros(self._count)
        flops = self.view.flops.tolist()
        for index in found:
            self.states[index], reward, self._terms[index] = self._task.pay(self.states[index], flops[index])
            rewards[index] = reward if index in masks else 0.0
        return rewards

    @property
    def view(self) -> View:
        """What all states show."""
        if self._view is None:
            self._view = self._task.view(self.states)
        return self._view

    def action_mask(self) -> np.ndarray:
        """(N, ...) int8, 1 = allowed, as ``show_mask`` has it."""
        return self._show_mask(self.view.allowed.flatten(1, 2).numpy())

    def infos(self, chosen: np.ndarray) -> Infos:
        """Infos in Gymnasium's vector form: an array for each name, and under ``_name`` who has it.

        Args:
            chosen: (N,) boolean; the others' entries are 0.
        """
        active = torch.stack([state.active for state in self.states])  # (N, L, U)
        loss = np.array([state.measurement.loss for state in self.states])
        more = [self._more_infos(state) for state in self.states]
        terms = {name: np.array([each.get(name, 0.0) for each in self._terms]) for name in self._terms[0]}
        return _masked(
            {
                "loss": loss,
                "ppl": np.array([math.exp(min(value, 700.0)) for value in loss.tolist()]),
                "flops": self.view.flops.numpy().copy(),
                "params": self._task.parameter_table.totals(active).numpy(),
                "active_heads": active[..., : self._task.heads].sum((1, 2)).numpy(),
                "active_units": active.sum((1, 2)).numpy(),
                "reward_terms": terms,
                "action_mask": self.action_mask(),
                "invalid_actions": self.invalid.copy(),
                **{name: np.stack([each[name] for each in more]) for name in more[0]},
            },
            chosen,
        )


def _masked(values: dict[str, Any], chosen: np.ndarray) -> Infos:
    infos: Infos = {}
    for name, value in values.items():
        if isinstance(value, dict):
            infos[name] = _masked(value, chosen)
        else:
            value[~chosen] = 0
            infos[name] = value
        infos[f"_{name}"] = chosen.copy()
    return infos
