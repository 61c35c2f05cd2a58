"""A module of somebody else's that adds one of everything: what `test_extending` registers and plays."""

from __future__ import annotations

import torch

from plasticity_env import RewardRule, Score, Signal, register_reward, register_score, register_signal
from plasticity_env.agents.training.agent import Agent, Learner, register_agent
from plasticity_env.controllers import ANNController, RankedController, register
from plasticity_env.controllers.planners import Planner, register_planner
from plasticity_env.envs.observation import head_column
from plasticity_env.growth.initial_weights import InitialWeights, Source, register_initial_weights
from plasticity_env.repair import Repair, register_repair
from plasticity_env.signals.batched_model import Projection
from plasticity_env.strategies.growing import register_growth_strategy
from plasticity_env.strategies.pruning import PriorityStrategy, register_pruning_strategy

# a signal: one record, one line
register_signal(Signal("toy", lambda seen: seen["fisher"] * seen["magnitude"], per_flop=True))
register_signal(Signal("toy_residual", lambda seen: seen["residual_fisher"].sqrt(), needs="residual"))
# scores: one record, one line
register_score(Score("toy_score", ("toy",)))
register_score(Score("toy_mix", ("toy", "obs"), lambda units: units["toy"] + units["obs"], prunes="highest"))
# a reward
register_reward(RewardRule("toy_reward", lambda outcome: {"quality": 2 * outcome.log_ppl_kept}))


def keep_the_mean(weight, moments, kept, unit_width, ridge=0.01):
    """A repair: what the pruned inputs write on average goes into the bias; `kept` is (masks, inputs)."""
    gone = moments.mean * ~kept.to(weight.device)
    return Projection(bias=(gone @ weight.to(moments.mean.dtype)).to(weight.dtype))


register_repair(Repair("toy_repair", keep_the_mean))


class ToyStrategy(PriorityStrategy):
    """Chooses the last units first."""

    name = "toy_strategy"
    measures = False

    def priority(self, view):
        return torch.arange(view.active.numel()).view(view.active.shape)


register_pruning_strategy("toy_strategy", ToyStrategy)
register_growth_strategy("toy_growth", ToyStrategy)


class ToyWeights(InitialWeights):
    """A grown head is the layer's first head again."""

    name, measures = "toy_weights", False

    def source(self, model, layer, unit):
        return Source("active", layer, 0)


register_initial_weights(ToyWeights)


class ToyController(RankedController):
    """Ranks units by a signal of this module."""

    name, signals = "toy_controller", ("toy",)

    def importance(self, observation):
        return head_column(observation, "toy").astype(float)


register("toy_controller", ToyController)


class ToyPlanner(Planner):
    """Prunes the first units that fit."""

    name = "toy_planner"

    def search(self, trials):
        active = trials.start
        for unit in range(active.numel()):
            less = active.clone()
            less.view(-1)[unit] = False
            active = less if trials.fits(less) else active
        return active


register_planner("toy_planner", lambda size, **options: ToyPlanner(**options))


def untrained(config, envs):
    """An agent that hands out the network that it was given."""
    controller = ANNController(config.ppo.make_network())
    return Learner(0, lambda folder, report: controller, lambda: controller)


register_agent(Agent("toy_agent", untrained, envs=("heads",)))
