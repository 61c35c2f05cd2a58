"""Searches: planners that may try masks out before they choose one. Rules and networks only look; planners measure.

The protocol is one method and a bill:

>>> planner = make_planner("swap_search:10", seed=0)
>>> env.reset(seed=0, options={"pruned_share": 0.3})  # plasticity/HeadRank-v1, or Heads-v1 with make_planner(..., share=0.3)
>>> active = planner.plan(env)  # (L, U) boolean: the mask to end the episode on; the episode itself has not moved
>>> planner.bill.evaluations  # what it took
>>> for action in actions_to(env, active): env.step(action)  # play it, so that a record can be replayed

A planner reads the episode's calibration blocks (signals, repair) and reward blocks (the loss that it minimises, with the
environment's repair), never the test split. ``threshold``, ``dp``, ``osscar`` and ``ziplm`` without candidates read no reward
blocks, and ``evolution`` blocks of the train split in their place.

**Evaluation**, the unit of cost: one forward over the reward or the calibration batch. A measuring pass (forward and
backward over the calibration batch) counts as 3, whoever makes it; so an episode of R rounds costs a controller 3 R
evaluations. A forward over the train split counts as one for every so many tokens as the reward batch has, rounded up. The
linear algebra of repair is not counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plasticity_env.common.errors import InputError, unknown
from plasticity_env.common.packages import require
from plasticity_env.common.registries import Registry
from plasticity_env.controllers.base import Action
from plasticity_env.controllers.planners.level_planners import Evolution, LevelKnapsack, Threshold
from plasticity_env.controllers.planners.osscar import Osscar
from plasticity_env.controllers.planners.searches import Greedy, SwapSearch
from plasticity_env.controllers.planners.torch_pruning import TorchPruning
from plasticity_env.controllers.planners.trials import MEASURING_PASS, Bill, Planner, Trials
from plasticity_env.controllers.planners.zip_lm import ZipLM
from plasticity_env.envs.base import PlasticityEnv
from plasticity_env.envs.edits import KEEP, PRUNE, REVIVE
from plasticity_env.envs.levels import LevelsEnv

__all__ = [
    "MEASURING_PASS",
    "PLANNERS",
    "Bill",
    "Evolution",
    "Greedy",
    "LevelKnapsack",
    "Osscar",
    "Planner",
    "SwapSearch",
    "Threshold",
    "TorchPruning",
    "Trials",
    "ZipLM",
    "actions_to",
    "is_planner",
    "make_planner",
    "register_planner",
]


def actions_to(env: Any, active: Tensor) -> list[Action]:
    """Actions, one for each decision that is left, that lead an episode to a mask.

    Args:
        env: Running; Heads-v1, HeadRank-v1 or Levels-v0 (whose target share must be what the mask prunes).
        active: (L, U) boolean, as `Planner.plan` returns it.

    Raises:
        InputError: Actions cannot lead there, say because the share is another one, or the mask is no level of every site.
    """
    base: PlasticityEnv = env.unwrapped
    state = base.get_state()["episode"]
    wanted, rounds = active.flatten(), base.settings.horizon - state.step
    if base.kind == "head_rank":
        bench = base.workbench
        cost = bench.flop_table.marginal(torch.ones_like(active)).flatten() if bench.model.mlp_blocks else None
        order = (
            torch.zeros(len(wanted)) if cost is None else -cost / cost.max()
        )  # of the kept ones the dearest goes next
        scores = torch.where(wanted, 0.5 + 0.25 * order, -1.0).float().numpy()
        actions: list[Action] = [scores] * rounds
    elif base.kind == "heads":
        now = state.active.flatten()
        edits = torch.full(wanted.shape, KEEP)
        edits[now & ~wanted], edits[~now & wanted] = PRUNE, REVIVE
        actions = [edits.numpy(), *[np.full(len(wanted), KEEP)] * (rounds - 1)]
    elif isinstance(base, LevelsEnv):
        plain = base.settings.action == "scores"
        actions = [torch.where(wanted, 1.0, -1.0).numpy() if plain else base.table.levels(active)] * rounds
    else:
        raise InputError(
            f"{base.env_id} takes one edit per step: play a plan on plasticity/Heads-v1, HeadRank-v1 or Levels-v0"
        )
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


def _torch_pruning(size: str | None, **options: Any) -> Planner:
    if size is not None:
        raise ValueError
    require("torch_pruning", "bench")
    return TorchPruning(**options)


def _evolution(size: str | None, **options: Any) -> Planner:
    return Evolution(**options) if size is None else Evolution(int(size), **options)


def _zip_lm(size: str | None, **options: Any) -> Planner:
    return ZipLM(**options) if size is None else ZipLM(int(size), **options)


def _measured_once(planner: type[Planner]) -> Callable[..., Planner]:
    def make(size: str | None, **options: Any) -> Planner:
        if size is not None:
            raise ValueError
        return planner(**options)

    return make


# name -> makes one of what stands behind the colon and of the planner's options
PLANNERS: Registry[Callable[..., Planner]] = Registry(
    "planner",
    {
        "greedy": _greedy,
        "swap_search": _swap_search,
        "torch_pruning": _torch_pruning,
        "threshold": _measured_once(Threshold),
        "dp": _measured_once(LevelKnapsack),
        "evolution": _evolution,
        "ziplm": _zip_lm,
        "osscar": _measured_once(Osscar),
    },
)


def register_planner(name: str, maker: Callable[..., Planner]) -> None:
    """Add a planner of your own: `make_planner` and the leaderboard know it by name from here on.

    Args:
        name: A name without a colon.
        maker: Called with what stands behind the colon (None where there is none) and with ``share`` and ``seed`` where given.

    Raises:
        InputError: The name is taken by the package.
    """
    PLANNERS.add(name, maker)


def is_planner(name: str) -> bool:
    """Whether a name, with or without a size behind a colon, is a planner's."""
    return name.partition(":")[0] in PLANNERS


def make_planner(name: str, **options: Any) -> Planner:
    """Build a planner: ``greedy``, ``greedy:K``, ``greedy:all``, ``swap_search:BUDGET``, ``torch_pruning``, or one over levels:
    ``threshold``, ``dp``, ``evolution`` or ``evolution:GENERATIONS``, ``ziplm`` or
    ``ziplm:CANDIDATES``, or ``osscar``.

    Args:
        name: Name in `PLANNERS`, with a size behind a colon or without.
        **options: ``share`` and ``seed``, as `Planner` takes them.

    Raises:
        InputError: The name is unknown, or the size is not a usable one.
    """
    kind, _, size = name.partition(":")
    if kind not in PLANNERS:
        raise unknown("planner", name, PLANNERS)
    try:
        return PLANNERS[kind](size or None, **options)
    except ValueError:
        raise InputError(
            f"{size!r} is not a size of a planner: use greedy:8, greedy:all, swap_search:10, ..."
        ) from None
