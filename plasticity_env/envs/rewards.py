"""What an episode pays: potentials, so that a step's reward is Phi(s') - Phi(s) and detours earn nothing at gamma 1."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from plasticity_env.common.registries import Registered, Registry, by_name


@dataclass(frozen=True)
class Outcome:
    """What a potential may look at.

    Attributes:
        loss: Mean negative log-likelihood on the reward batch, nats per token.
        reference_loss: The same for the dense model, or for the unpruned control arm after equal training.
        flops, dense_flops: Forward FLOPs per token of this model and of the dense one.
        flop_price: Price of one nat of log FLOPs (of log time in the ``latency`` reward).
        budget: Target share of the dense FLOPs, or None.
        kl: Mean KL(dense || this) on the reward batch, nats per token, or None when not measured.
        time_kept: Forward seconds of the compacted model over those of the dense one, or None when not measured.
    """

    loss: float
    reference_loss: float
    flops: float
    dense_flops: float
    flop_price: float
    budget: float | None = None
    kl: float | None = None
    time_kept: float | None = None

    @property
    def log_ppl_kept(self) -> float:
        """log(ppl_0 / ppl)."""
        return self.reference_loss - self.loss

    @property
    def log_flops_kept(self) -> float:
        """log(flops / flops_0)."""
        return math.log(self.flops / self.dense_flops)


Terms = dict[str, float]


@dataclass(frozen=True)
class RewardRule(Registered):
    """A named potential.

    Attributes:
        terms: Splits the potential of an outcome into named summands; Phi is their sum.
        deterministic: Two runs with one seed pay the same.
        platform_dependent: The figure depends on the machine.
        needs_kl: Ask the environment to measure the KL divergence to the dense model.
        needs_latency: Ask the environment to remove pruned units for real and to time a forward.
        needs_budget: Ask the environment to sample a FLOP budget, which its action mask never lets the agent undercut.
    """

    name: str
    terms: Callable[[Outcome], Terms]
    deterministic: bool = True
    platform_dependent: bool = False
    needs_kl: bool = False
    needs_latency: bool = False
    needs_budget: bool = False

    @classmethod
    def registry(cls) -> Registry[RewardRule]:
        """The registry of rewards."""
        return REWARDS


BUDGET_PENALTY = 32.0  # price of a nat of log FLOPs above the budget: dearer than any head that is worth removing


def _ppl_per_flop(outcome: Outcome) -> Terms:
    return {"quality": outcome.log_ppl_kept, "cost": -outcome.flop_price * outcome.log_flops_kept}


def _budget(outcome: Outcome) -> Terms:
    assert outcome.budget is not None
    above = max(0.0, outcome.log_flops_kept - math.log(outcome.budget))
    return {"quality": outcome.log_ppl_kept, "above_budget": -BUDGET_PENALTY * above}


def _kl(outcome: Outcome) -> Terms:
    assert outcome.kl is not None
    return {"quality": -outcome.kl, "cost": -outcome.flop_price * outcome.log_flops_kept}


def _latency(outcome: Outcome) -> Terms:
    assert outcome.time_kept is not None
    return {"quality": outcome.log_ppl_kept, "cost": -outcome.flop_price * math.log(outcome.time_kept)}


REWARDS: Registry[RewardRule] = Registry(
    "reward",
    by_name(
        (
            RewardRule("ppl_per_flop", _ppl_per_flop),
            RewardRule("budget", _budget, needs_budget=True),
            RewardRule("kl", _kl, needs_kl=True),
            RewardRule("latency", _latency, deterministic=False, platform_dependent=True, needs_latency=True),
        )
    ),
)
find_reward = REWARDS.find


def register_reward(rule: RewardRule) -> None:
    """Add a reward under its name.

    Raises:
        InputError: The name is that of a reward that comes with the package.
    """
    REWARDS.add(rule.name, rule)


def reward_names() -> list[str]:
    """Names that the environment's ``reward`` argument takes."""
    return sorted(REWARDS)
