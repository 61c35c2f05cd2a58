"""What a planner is, and the episode on which it tries masks out; the protocol is in `plasticity_env.controllers.planners`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from plasticity_env.common.errors import InputError
from plasticity_env.controllers.planners.bill import MEASURING_PASS, Bill
from plasticity_env.controllers.planners.divergence import Divergence
from plasticity_env.envs.base import PlasticityEnv
from plasticity_env.envs.level_tables import table_of
from plasticity_env.envs.levels import LevelsEnv
from plasticity_env.model.contexts import in_plain_mode
from plasticity_env.model.layouts import Site
from plasticity_env.model.modes import PruningMode
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.signals.measure import HeadSignals
from plasticity_env.strategies.level_choice import Room
from plasticity_env.strategies.level_table import LevelTable
from plasticity_env.strategies.output_errors import OutputErrors


class Planner(ABC):
    """Chooses the mask on which an episode ends.

    Args:
        share: Share of all units (of their FLOPs where MLP blocks are units) to prune; None takes the episode's own target, which
            only HeadRank has.
        seed: Seed of its own randomness.

    Attributes:
        name: What it is called in tables.
        bill: What the latest plan took.
    """

    name: str = "planner"

    def __init__(self, share: float | None = None, seed: int = 0) -> None:
        if share is not None and not 0 < share < 1:
            raise InputError(f"share must lie between 0 and 1, got {share!r}")
        self.share, self.seed = share, seed
        self.bill = Bill()

    @property
    def evaluations(self) -> int:
        """Evaluations of the latest plan."""
        return self.bill.evaluations

    def plan(self, env: Any) -> Tensor:
        """Search from the episode's present state; neither the episode nor its random numbers move.

        Args:
            env: A running `PlasticityEnv`, wrapped or not, whose model is frozen.

        Returns:
            (L, U) boolean, True = active.

        Raises:
            InputError: No target share, or a model that trains.
        """
        self.bill = Bill()
        return self.search(Trials(env.unwrapped, self.share, self.bill))

    @abstractmethod
    def search(self, trials: Trials) -> Tensor:
        """What a planner is made of: (L, U) mask from what `Trials` lets it try."""


class Trials:
    """An episode on which masks can be tried out; each try is written on the bill, once a mask.

    Args:
        env: Its running episode.
        share: Target, or None for the episode's own.
        bill: Bill on which tries are counted.

    Attributes:
        start: (L, U) the mask now.
        cost: (L, U) what a unit counts in the share: 1, or its FLOPs where MLP blocks are units. On Levels, which counts the
            FLOPs of whole masks, those of each unit alone.
        due: How much cost the plan has to prune, at most.
        rounds: Decisions that the episode has left.
    """

    def __init__(self, env: PlasticityEnv, share: float | None, bill: Bill) -> None:
        if env.settings.train_steps:
            raise InputError("a planner searches over masks of a frozen model: make the environment with train_steps=0")
        self._state = state = env.get_state()["episode"]
        if state is None or state.done:
            raise InputError("a planner needs a running episode: call reset() first")
        share = state.share if share is None else share
        if share is None:
            raise InputError("this environment has no target share: give the planner one (share=0.3)")
        self._bench, self._bill = env.workbench, bill
        self._sampled = env.settings.labels == "sampled"
        self.start: Tensor = state.active
        model, table = self._bench.model, self._bench.flop_table
        dense = torch.ones_like(self.start)
        self.cost = table.marginal(dense).double() if model.mlp_blocks else dense.double()
        self._flops = table if isinstance(env, LevelsEnv) else None
        self._slack: Callable[[LevelTable], int] | None = env.slack if isinstance(env, LevelsEnv) else None
        self.due = share * float(self.cost.sum())
        if isinstance(env, LevelsEnv):
            self.due = env.due_flops(share)
        elif not model.mlp_blocks:
            self.due = float(round(self.due))
        self.revives = PruningMode.parse(env.settings.mode) is PruningMode.ADAPTIVE
        self.rounds = env.settings.horizon - state.step
        self.most = int(env.settings.max_sparsity * dense.numel() + 1e-9)
        self.least_heads = env.settings.min_heads_per_layer
        self.heads = model.heads
        length = self._bench.text.block_size
        self._tokens = length * len(state.calibration), length * len(state.reward)
        bill.forward_tokens += length * len(state.moments)  # once: their moments are kept
        self._losses: dict[bytes, float] = {}
        self._signals: dict[bytes, HeadSignals] = {}

    def signals(self, active: Tensor) -> HeadSignals:
        """Signals of a mask on the calibration blocks: a measuring pass, the first time."""
        key = active.numpy().tobytes()
        if key not in self._signals:
            (found,) = self._bench.measure([self._state.request(active)])
            self._signals[key] = found.signals
            self._losses[key] = found.loss
            self._bill.evaluations += MEASURING_PASS + 1
            self._bill.forward_tokens += sum(self._tokens)
            self._bill.backward_tokens += self._tokens[0]
        return self._signals[key]

    def loss(self, active: Tensor) -> float:
        """Loss of a mask, repaired, on the reward blocks, nats per token: one evaluation."""
        key = active.numpy().tobytes()
        if key not in self._losses:
            self._losses[key] = self._bench.reward_loss(self._state.request(active))
            self._bill.evaluations += 1
            self._bill.forward_tokens += self._tokens[1]
        return self._losses[key]

    def knows(self, active: Tensor) -> bool:
        """Whether the loss of a mask is known already."""
        return active.numpy().tobytes() in self._losses

    def fits(self, active: Tensor) -> bool:
        """Whether a mask prunes no more than is due and keeps the environment's other limits."""
        heads = active[:, : self.heads].sum(1)
        return (
            self.spent(active) <= self.due + 1e-6
            and int((~active).sum()) <= self.most
            and int(heads.min()) >= self.least_heads
            and int(heads.sum()) > 0
            and (self.revives or bool((active <= self.start).all()))
        )

    def spent(self, active: Tensor) -> float:
        """What a mask prunes, as the share counts it."""
        if self._flops is None:
            return float(self.cost[~active].sum())
        return self._flops.total(torch.ones_like(active)) - self._flops.total(active)

    def levels(self, of_outputs: bool = False) -> tuple[LevelTable, Room]:
        """Levels of every site, priced on the calibration blocks, in what the share counts; and what a choice of them may do.

        A choice may stay below the most that levels can reach by less than the cheapest unit, as rules do that prune unit after
        unit; on Levels it does as the environment says. Billed as one measuring pass, and where there are moment blocks
        another forward over these.

        Args:
            of_outputs: As `measure_levels` takes it; a forward over the calibration blocks, billed as one evaluation.
        """
        table = table_of(self._bench, self._state, self._sampled, of_outputs)
        table = table.counting(self.cost) if self._flops is None else table
        self._bill.evaluations += 1 if of_outputs else MEASURING_PASS
        self._bill.forward_tokens += self._tokens[0] + self._bench.text.block_size * len(self._state.moments)
        self._bill.backward_tokens += 0 if of_outputs else self._tokens[0]
        lowest = None if self.revives else table.levels(self.start)
        slack = table.least if self._slack is None else self._slack(table)
        return table, Room.within(table, self.due, self.least_heads, lowest, slack)

    @in_plain_mode
    def output_errors(self) -> OutputErrors:
        """What sites' outputs lose without any set of units: from the forward that `levels` with ``of_outputs`` has billed."""
        bench, state = self._bench, self._state
        moments = bench.blocks("calibration", state.moments) if state.moments else None
        calibration = bench.blocks("calibration", state.calibration)
        return OutputErrors(bench.model, calibration, moments, batch_size=bench.batch_size)

    @property
    def sites(self) -> list[Site]:
        """The sites whose units are in the mask."""
        return [site for site in self._bench.model.sites if site.gated]

    def divergence(self, blocks: int, seed: int) -> Divergence:
        """The KL divergence to the dense model on so many blocks of the train split, or all that there are, in a drawn order."""
        return Divergence(self._bench, self._state.fitted, blocks, seed, self._bill, self._tokens[1])

    @property
    def block_size(self) -> int:
        """Tokens of a block."""
        return self._bench.text.block_size

    def slopes(self) -> tuple[PlasticModel, Tensor]:
        """The model, dense and without repair, and the (n, T) calibration tokens (moment blocks too), for somebody who takes
        gradients of the weights himself: billed as one measuring pass.
        """
        model = self._bench.model
        model.set_active(torch.ones_like(self.start))
        model.undo_repair()
        self._bill.evaluations += MEASURING_PASS
        read = self._bench.blocks("calibration", (*self._state.calibration, *self._state.moments))
        self._bill.forward_tokens += read.numel()
        self._bill.backward_tokens += read.numel()
        return model, read
