"""Two searches over masks: greedy, one unit at a time, and an evolutionary one that swaps pruned with kept units."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from plasticity_env.common.errors import InputError
from plasticity_env.controllers.planners.trials import MEASURING_PASS, Planner, Trials

START_ROUNDS = 4  # of the rule whose mask a search starts from
DRAWS = 100  # of a child, before a search takes it that there is none


class Greedy(Planner):
    """One unit at a time, the one whose removal (with its repair) raises the reward loss least, measured anew each time.

    Prunes to the due share from the mask that the episode has; a unit that is gone stays gone. Where MLP blocks are units,
    the rise is taken per FLOP.

    Args:
        candidates: How many units are tried at each step: those of lowest Fisher score at the present mask (per FLOP where
            MLP blocks are units). None tries all of them, and needs no measuring pass.
        share, seed: Share and seed, as `Planner` takes them.
    """

    def __init__(self, candidates: int | None = 8, share: float | None = None, seed: int = 0) -> None:
        super().__init__(share, seed)
        if candidates is not None and candidates < 1:
            raise InputError(f"greedy must try at least 1 candidate, got {candidates!r}")
        self.candidates = candidates
        self.name = f"greedy:{'all' if candidates is None else candidates}"

    def search(self, trials: Trials) -> Tensor:
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
    A child that was tried before, or that breaks a limit of the environment, is drawn again.

    Args:
        budget: Tries, as a multiple of what an episode costs a controller (3 evaluations for each of its rounds). The start
            is paid on top of it.
        share, seed: Share and seed, as `Planner` takes them.
    """

    def __init__(self, budget: float = 10, share: float | None = None, seed: int = 0) -> None:
        super().__init__(share, seed)
        if not 0 < budget < 1e6:
            raise InputError(f"the budget of a swap search must be positive, got {budget!r}")
        self.budget = budget
        self.name = f"swap_search:{budget:g}"

    def search(self, trials: Trials) -> Tensor:
        tries = round(self.budget * MEASURING_PASS * trials.rounds)
        return self.climb(trials, fisher_rounds(trials, START_ROUNDS), tries)

    def climb(self, trials: Trials, best: Tensor, tries: int) -> Tensor:
        """Swap from a given mask on, and keep what pays.

        Args:
            trials: Trials in which children are tried.
            best: (L, U) boolean mask to start at, True = active.
            tries: Children, one evaluation each.

        Returns:
            (L, U) the mask of least loss that was tried.
        """
        random = np.random.default_rng(self.seed)
        preference = ranks(trials.signals(best).fisher / trials.cost)
        least = trials.loss(best)
        for _ in range(tries):
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
        """A mask that is one swap or more away, fits, and was not tried; None where there seems to be none."""
        for _ in range(DRAWS):
            child = active.clone().flatten()
            pruned = np.flatnonzero((~child if trials.revives else ~child & trials.start.flatten()).numpy())
            kept = np.flatnonzero(child.numpy())
            if not len(pruned) or not len(kept):
                return None
            count = min(int(random.geometric(0.6)), len(pruned), len(kept))
            returning = draw(pruned, preference, count, random)
            child[draw(kept, -preference, count, random)] = False
            child[returning] = True
            child = self._filled(self._relieved(child, pruned, preference, trials, random), preference, trials, random)
            if trials.fits(child) and not trials.knows(child):
                return child
        return None

    def _relieved(
        self, child: Tensor, pruned: np.ndarray, preference: np.ndarray, trials: Trials, random: np.random.Generator
    ) -> Tensor:
        """Revives on while too much is pruned: for one expensive unit several cheap ones return."""
        cost = trials.cost.flatten()
        gone = pruned[~child[pruned].numpy()]
        if len(gone) and not bool((cost == cost[0]).all()):
            for unit in draw(gone, preference, len(gone), random).tolist():
                if float(cost[~child].sum()) <= trials.due + 1e-9:
                    break
                child[unit] = True
        return child.view(trials.cost.shape)

    def _filled(self, child: Tensor, preference: np.ndarray, trials: Trials, random: np.random.Generator) -> Tensor:
        """Prunes on while a unit fits below the due share: units of different cost, swapped, may leave room."""
        if bool((trials.cost == trials.cost[0, 0]).all()):
            return child
        kept = np.flatnonzero(child.flatten().numpy())
        for unit in draw(kept, -preference, len(kept), random).tolist():
            if trials.fits(without(child, unit)):
                child = without(child, unit)
        return child


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
