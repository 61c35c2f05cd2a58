"""Searches: planners that may try masks out before they choose one. Rules and networks only look; planners measure.

The protocol is one method and a bill:

>>> planner = make_planner("swap_search:10", seed=0)
>>> env.reset(seed=0, options={"pruned_share": 0.3})  # plasticity/HeadRank-v0, or Heads-v0 with make_planner(..., share=0.3)
>>> active = planner.plan(env)  # (L, U) boolean: the mask to end the episode on; the episode itself has not moved
>>> planner.bill.evaluations  # what it took
>>> for action in actions_to(env, active): env.step(action)  # play it, so that a record can be replayed

A planner reads the episode's calibration blocks (signals, repair) and reward blocks (the loss that it minimises, with the
environment's repair), never the test split.

**Evaluation**, the unit of cost: one forward over the reward or the calibration batch. A measuring pass (forward and
backward over the calibration batch) counts as 3, whoever makes it; so an episode of R rounds costs a controller 3 R
evaluations. The linear algebra of repair counts for nobody.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from controllers.protocol import Action
from plasticity_env.edits import KEEP, PRUNE, REVIVE
from plasticity_env.envs.base import PlasticityEnv
from plasticity_env.errors import InputError, unknown
from plasticity_env.modes import PruningMode
from plasticity_env.signals import HeadSignals

MEASURING_PASS = 3  # evaluations
START_ROUNDS = 4  # of the rule whose mask a search starts from


@dataclass
class Bill:
    """What a plan took.

    Attributes:
        evaluations: Forwards over a batch, a measuring pass counted as three.
        forward_tokens, backward_tokens: Tokens that went through the model, there and back.
    """

    evaluations: int = 0
    forward_tokens: int = 0
    backward_tokens: int = 0


class Planner(ABC):
    """Chooses the mask on which an episode ends.

    Args:
        share: Of all units (of their FLOPs where MLP blocks are units) to prune; None takes the episode's own target, which
            only HeadRank has.
        seed: Of its own randomness.

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
        """Of the latest plan."""
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
        return self._search(Trials(env.unwrapped, self.share, self.bill))

    @abstractmethod
    def _search(self, trials: Trials) -> Tensor: ...


class Trials:
    """An episode on which masks can be tried out; each try is written on the bill, once a mask.

    Args:
        env: Its running episode.
        share: Target, or None for the episode's own.
        bill: Where tries are written.

    Attributes:
        start: (L, U) the mask now.
        cost: (L, U) what a unit counts in the share: 1, or its FLOPs where MLP blocks are units.
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
        self.start: Tensor = state.active
        model, table = self._bench.model, self._bench.flop_table
        dense = torch.ones_like(self.start)
        self.cost = table.marginal(dense).double() if model.mlp_blocks else dense.double()
        due = share * float(self.cost.sum())
        self.due = due if model.mlp_blocks else float(round(due))
        self.revives = PruningMode.parse(env.settings.mode) is PruningMode.ADAPTIVE
        self.rounds = env.settings.horizon - state.step
        self.most = int(env.settings.max_sparsity * dense.numel() + 1e-9)
        self.least_heads = env.settings.min_heads_per_layer
        self.heads = model.heads
        length = self._bench.text.block_size
        self._tokens = length * len(state.calibration), length * len(state.reward)
        self._losses: dict[bytes, float] = {}
        self._signals: dict[bytes, HeadSignals] = {}

    def signals(self, active: Tensor) -> HeadSignals:
        """Signals of a mask on the calibration blocks: a measuring pass, unless it is the mask that the episode shows."""
        key = active.numpy().tobytes()
        if key not in self._signals:
            found = self._bench.measure(active, self._state.calibration, self._state.reward)
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
            self._losses[key] = self._bench.reward_loss(active, self._state.calibration, self._state.reward)
            self._bill.evaluations += 1
            self._bill.forward_tokens += self._tokens[1]
        return self._losses[key]

    def fits(self, active: Tensor) -> bool:
        """Whether a mask prunes no more than is due and keeps the environment's other limits."""
        heads = active[:, : self.heads].sum(1)
        return (
            float(self.cost[~active].sum()) <= self.due + 1e-9
            and int((~active).sum()) <= self.most
            and int(heads.min()) >= self.least_heads
            and int(heads.sum()) > 0
            and (self.revives or bool((active <= self.start).all()))
        )


class Greedy(Planner):
    """One unit at a time, the one whose removal (with its repair) raises the reward loss least, measured anew each time.

    Prunes to the due share from the mask that the episode has; a unit that is gone stays gone. Where MLP blocks are units,
    the rise is taken per FLOP.

    Args:
        candidates: How many units are tried at each step: those of lowest Fisher score at the present mask (per FLOP where
            MLP blocks are units). None tries all of them, and needs no measuring pass.
        share, seed: As `Planner` takes them.
    """

    def __init__(self, candidates: int | None = 8, share: float | None = None, seed: int = 0) -> None:
        super().__init__(share, seed)
        if candidates is not None and candidates < 1:
            raise InputError(f"greedy must try at least 1 candidate, got {candidates!r}")
        self.candidates = candidates
        self.name = f"greedy:{'all' if candidates is None else candidates}"

    def _search(self, trials: Trials) -> Tensor:
        active = trials.start
        while True:
            options = [
                unit for unit in active.flatten().nonzero().flatten().tolist() if trials.fits(without(active, unit))
            ]
            if not options:
                return active
            if self.candidates is not None and len(options) > self.candidates:
                score = (trials.signals(active).fisher / trials.cost).flatten()
                options = sorted(options, key=lambda unit: float(score[unit]))[: self.candidates]
            here, cost = trials.loss(active), trials.cost.flatten()
            rises = {unit: (trials.loss(without(active, unit)) - here) / float(cost[unit]) for unit in options}
            active = without(active, min(rises, key=rises.__getitem__))


class SwapSearch(Planner):
    """Evolutionary search, (1 + 1): swaps pruned with kept units, and keeps the child where the reward loss falls.

    Starts at the mask that the Fisher score chooses in four rounds of measure, prune and repair (`fisher@4`). A child swaps
    one, two, ... pairs (geometric); which units is drawn with a preference for reviving high and pruning low Fisher scores.
    In compressed mode, and for MLP blocks, children are repaired to what the limits allow or drawn again.

    Args:
        budget: Tries, as a multiple of what an episode costs a controller (3 evaluations for each of its rounds). The start
            is paid on top of it.
        share, seed: As `Planner` takes them.
    """

    def __init__(self, budget: float = 10, share: float | None = None, seed: int = 0) -> None:
        super().__init__(share, seed)
        if not 0 < budget < 1e6:
            raise InputError(f"the budget of a swap search must be positive, got {budget!r}")
        self.budget = budget
        self.name = f"swap_search:{budget:g}"

    def _search(self, trials: Trials) -> Tensor:
        random = np.random.default_rng(self.seed)
        best = fisher_rounds(trials, START_ROUNDS)
        preference = ranks(trials.signals(best).fisher / trials.cost)
        least = trials.loss(best)
        for _ in range(round(self.budget * MEASURING_PASS * trials.rounds)):
            child = self._child(best, preference, trials, random)
            if child is None:
                break
            loss = trials.loss(child)
            if loss < least:
                best, least = child, loss
        return best

    def _child(
        self, active: Tensor, preference: np.ndarray, trials: Trials, random: np.random.Generator
    ) -> Tensor | None:
        """A mask that is one swap or more away, and fits; None where there seems to be none."""
        for _ in range(100):
            child = active.clone().flatten()
            pruned = np.flatnonzero((~child if trials.revives else ~child & trials.start.flatten()).numpy())
            kept = np.flatnonzero(child.numpy())
            if not len(pruned) or not len(kept):
                return None
            count = min(int(random.geometric(0.6)), len(pruned), len(kept))
            child[draw(pruned, preference, count, random)] = True
            child[draw(kept, -preference, count, random)] = False
            child = child.view(active.shape)
            if trials.fits(child) and not torch.equal(child, active):
                return child
        return None


def fisher_rounds(trials: Trials, rounds: int) -> Tensor:
    """(L, U) mask that the Fisher score chooses in so many rounds of measure, prune and repair."""
    active, gone = trials.start, float(trials.cost[~trials.start].sum())
    for done in range(1, rounds + 1):
        score = (trials.signals(active).fisher / trials.cost).flatten()
        due = gone + (trials.due - gone) * done / rounds
        for unit in score.argsort(stable=True).tolist():
            fewer = without(active, unit)
            spent = float(trials.cost[~fewer].sum())
            whole = round(due) if bool((trials.cost == 1).all()) else due
            if bool(active.flatten()[unit]) and spent <= whole + 1e-9 and trials.fits(fewer):
                active = fewer
    return active


def without(active: Tensor, unit: int) -> Tensor:
    """A mask with one more unit pruned, by its flat index."""
    fewer = active.clone()
    fewer.view(-1)[unit] = False
    return fewer


def ranks(values: Tensor) -> np.ndarray:
    """(N,) rank of each entry, in [0, 1]."""
    order = values.flatten().argsort(stable=True).argsort(stable=True)
    return order.double().numpy() / max(1, len(order) - 1)


def draw(units: np.ndarray, preference: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """``count`` different units, those of high preference more likely (a rank of 1 e^4 times as likely as one of 0)."""
    weight = np.exp(4.0 * preference[units])
    return random.choice(units, count, replace=False, p=weight / weight.sum())


def actions_to(env: Any, active: Tensor) -> list[Action]:
    """Actions, one for each decision that is left, that lead an episode to a mask.

    Args:
        env: Running; Heads-v0 or HeadRank-v0 (whose target share must be what the mask prunes).
        active: (L, U) boolean, as `Planner.plan` returns it.

    Raises:
        InputError: Actions cannot lead there, say because the share is another one.
    """
    base: PlasticityEnv = env.unwrapped
    state = base.get_state()["episode"]
    wanted, rounds = active.flatten(), base.settings.horizon - state.step
    if base.env_id.endswith("HeadRank-v0"):
        bench = base.workbench
        cost = bench.flop_table.marginal(torch.ones_like(active)).flatten() if bench.model.mlp_blocks else None
        order = (
            torch.zeros(len(wanted)) if cost is None else -cost / cost.max()
        )  # of the kept ones the dearest goes next
        scores = torch.where(wanted, 0.5 + 0.25 * order, -1.0).float().numpy()
        actions: list[Action] = [scores] * rounds
    elif base.env_id.endswith("Heads-v0"):
        now = state.active.flatten()
        edits = torch.full(wanted.shape, KEEP)
        edits[now & ~wanted], edits[~now & wanted] = PRUNE, REVIVE
        actions = [edits.numpy(), *[np.full(len(wanted), KEEP)] * (rounds - 1)]
    else:
        raise InputError(f"{base.env_id} takes one edit a step: play a plan on plasticity/Heads-v0 or HeadRank-v0")
    trial = base.fork()
    for action in actions[:-1]:
        trial.step(action)
    if not torch.equal(trial.preview(actions[-1]), active):
        raise InputError(
            f"{base.env_id} cannot go to a mask that prunes {int((~active).sum())} units: its limits or share differ"
        )
    return actions


def _greedy(size: str | None, **options: Any) -> Planner:
    if size is None:
        return Greedy(**options)
    return Greedy(None if size == "all" else int(size), **options)


def _swap_search(size: str | None, **options: Any) -> Planner:
    return SwapSearch(**options) if size is None else SwapSearch(float(size), **options)


# name -> makes one of what stands behind the colon and of the planner's options
PLANNERS: dict[str, Callable[..., Planner]] = {"greedy": _greedy, "swap_search": _swap_search}


def is_planner(name: str) -> bool:
    """Whether a name, with or without a size behind a colon, is a planner's."""
    return name.partition(":")[0] in PLANNERS


def make_planner(name: str, **options: Any) -> Planner:
    """Build a planner: ``greedy``, ``greedy:K``, ``greedy:all``, ``swap_search:BUDGET``.

    Args:
        name: Of `PLANNERS`, with a size behind a colon or without.
        **options: ``share`` and ``seed``, as `Planner` takes them.

    Raises:
        InputError: Unknown name, or a size that is none.
    """
    kind, _, size = name.partition(":")
    if kind not in PLANNERS:
        raise unknown("planner", name, PLANNERS)
    try:
        return PLANNERS[kind](size or None, **options)
    except ValueError:
        raise InputError(f"{size!r} is no size of a planner: use greedy:8, greedy:all, swap_search:10, ...") from None
