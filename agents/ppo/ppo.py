"""Proximal policy optimisation (Schulman et al. 2017) over several environments, whose models may differ in size.

Reads from top to bottom as the algorithm goes: rollout, generalised advantage estimation, update. Three things differ from
the textbook. Heads are chosen independently given the observation, so each head has its own probability ratio, and clipping
acts on it (one joint ratio over hundreds of heads would clip most samples). For the same reason each head's advantage may be
freed of what the critic thinks the other heads' choices did, without bias (factorised baselines, Wu et al. 2018). And gamma
is 1: rewards are differences of a potential, so only the undiscounted return cannot be pumped by a loop.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from plasticity_env.agents.ppo.checkpoint import load_checkpoint, save_checkpoint
from plasticity_env.agents.ppo.padding import Batch, decide, environment_action, pad
from plasticity_env.common.cli import words
from plasticity_env.common.errors import InputError, unknown
from plasticity_env.controllers.ann import ANNController
from plasticity_env.controllers.network import HeadNetwork, NetworkConfig
from plasticity_env.envs.observation import HEAD_FEATURES, NETWORK_HEAD_FEATURES, Observation
from plasticity_env.model.loading import check_device

Metrics = dict[str, float]
Callback = Callable[[int, Metrics], None]


@dataclass(frozen=True)
class PPOConfig:
    """Arguments of PPO."""

    total_timesteps: int = 8192
    """environment steps in all"""
    num_steps: int = 16
    """steps of each environment in one rollout"""
    learning_rate: float = 1e-3
    """of Adam; falls linearly to 0"""
    gamma: float = 1.0
    """discount; 1 keeps the potential-based reward free of loops"""
    gae_lambda: float = 0.95
    """lambda of generalised advantage estimation"""
    num_minibatches: int = 4
    """minibatches of one epoch"""
    update_epochs: int = 4
    """epochs over each rollout"""
    clip_coef: float = 0.2
    """clipping of each head's probability ratio"""
    ent_coef: float = 0.003
    """weight of the mean entropy of a decision"""
    vf_coef: float = 0.5
    """weight of the value loss"""
    max_grad_norm: float = 0.5
    """gradient norm limit"""
    factored_baseline: bool = True
    """free each head's advantage of the estimated effects of the other heads' choices"""
    target_kl: float = 0.05
    """stop the epochs of an update once the mean KL of a decision exceeds this"""
    width: int = 64
    """hidden units of the network"""
    context: str = "deep_sets"
    """how heads see each other: deep_sets, attention or linear (not at all; HeadRank only)"""
    keep_bias: float = 2.0
    """initial logit of keep"""
    head_features: str = ""
    """columns of the observation that the network reads of each head, separated by commas; empty: all that fit any model"""
    checkpoint_every: int = 1
    """updates between checkpoints"""
    seed: int = 1
    """of network, rollouts and environments"""
    device: str = "cpu"
    """where the network lives"""

    def __post_init__(self) -> None:
        for name in ("total_timesteps", "num_steps", "num_minibatches", "update_epochs", "checkpoint_every"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"{name} must be a whole number of at least 1, got {value!r}")
        for name in ("learning_rate", "clip_coef", "max_grad_norm", "target_kl"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} must be above 0 and finite, got {getattr(self, name)!r}")
        for name in ("gamma", "gae_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must lie in [0, 1], got {getattr(self, name)!r}")
        for name in ("ent_coef", "vf_coef", "keep_bias"):
            if not math.isfinite(getattr(self, name)):
                raise InputError(f"{name} must be a finite number, got {getattr(self, name)!r}")
        if not isinstance(self.seed, int) or self.seed < 0:
            raise InputError(f"seed must be a whole number of at least 0, got {self.seed!r}")
        self.network_config()
        check_device(self.device)

    def network_config(self) -> NetworkConfig:
        """Shape of the network.

        Raises:
            InputError: A shape that does not fit, or features that no observation has.
        """
        features = tuple(words(self.head_features)) or NETWORK_HEAD_FEATURES
        missing = [name for name in features if name not in HEAD_FEATURES]
        if missing:
            raise unknown("head feature", missing[0], HEAD_FEATURES)
        return NetworkConfig(features, width=self.width, context=self.context, keep_bias=self.keep_bias)


def network_of(config: PPOConfig) -> HeadNetwork:
    """A fresh network of the shape that the arguments give."""
    return HeadNetwork(config.network_config())


class PPO:
    """Trains a `HeadNetwork` in one or several environments.

    Args:
        envs: Gymnasium environments of this package, all of one id; models may differ in layers and heads.
        config: Arguments.
        folder: Where checkpoints go; None writes none.
        callback: Called after each update with the number of environment steps and the metrics.
        network: To go on with; a fresh one when None.

    Raises:
        InputError: No environment, or ids that differ.
    """

    def __init__(
        self,
        envs: list[gym.Env[Any, Any]],
        config: PPOConfig,
        folder: Path | None = None,
        callback: Callback | None = None,
        network: HeadNetwork | None = None,
    ) -> None:
        if not envs:
            raise InputError("PPO needs at least one environment")
        kinds = {type(env.unwrapped).__name__ for env in envs}
        if len(kinds) > 1:
            raise InputError(f"all environments of a training must be of one id, got {', '.join(sorted(kinds))}")
        self.envs, self.config, self.folder, self.callback = envs, config, folder, callback
        self.one_edit = envs[0].get_wrapper_attr("kind") == "head_edit"
        self.heads = [env.observation_space["heads"].shape[0] for env in envs]  # type: ignore[index]
        self.slots = max(self.heads)
        torch.manual_seed(config.seed)
        self.device = torch.device(config.device)
        self.network = (network_of(config) if network is None else network).to(self.device).train()
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate, eps=1e-5)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.global_step = self.update = 0
        self.observations: list[Observation] = []
        self.returns = [0.0] * len(envs)

    @property
    def num_updates(self) -> int:
        """Updates in all."""
        return max(1, self.config.total_timesteps // (self.config.num_steps * len(self.envs)))

    def train(self) -> ANNController:
        """Train to the end, from the latest checkpoint if `resume` loaded one, and return the controller."""
        if not self.observations:
            self.observations = [env.reset(seed=self.config.seed + 1000 * i)[0] for i, env in enumerate(self.envs)]
        while self.update < self.num_updates:
            started = time.perf_counter()
            rollout, episodes = self._rollout()
            losses = self._learn(rollout)
            self.update += 1
            metrics = {**episodes, **losses, "time/sps": rollout.rewards.numel() / (time.perf_counter() - started)}
            if self.callback is not None:
                self.callback(self.global_step, metrics)
            if self.folder is not None and (self.update % self.config.checkpoint_every == 0 or self._done):
                save_checkpoint(self, self.folder)
        return self.controller()

    def controller(self) -> ANNController:
        """The network as it is now."""
        info = {"agent": "ppo", "global_step": self.global_step, "seed": self.config.seed}
        return ANNController(self.network, info=info)

    def resume(self) -> bool:
        """Load the latest checkpoint of the folder, so that `train` goes on exactly; False where there is none."""
        return self.folder is not None and load_checkpoint(self, self.folder)

    @property
    def _done(self) -> bool:
        return self.update >= self.num_updates

    @torch.no_grad()
    def _rollout(self) -> tuple[Rollout, Metrics]:
        steps: list[tuple[Batch, Tensor, Tensor, Tensor, Tensor]] = []
        rewards = torch.zeros(self.config.num_steps, len(self.envs))
        dones = torch.zeros_like(rewards)  # the episode ended with this step
        bootstraps = torch.zeros_like(rewards)  # value of the state in which it was truncated
        finished: list[Metrics] = []
        for t in range(self.config.num_steps):
            batch = pad(self.observations, self.slots).to(self.device)
            decision = decide(self.network, batch, self.one_edit)
            actions = decision.actions.sample(self.generator)
            others = torch.zeros_like(decision.actions.valid, dtype=torch.float32)
            if self.config.factored_baseline and decision.effects is not None:
                effect = decision.effects.gather(-1, actions[..., None])[..., 0]  # (E, K)
                others = effect.sum(1, keepdim=True) - effect
            steps.append((batch, actions, decision.actions.log_prob(actions), decision.value, others))
            for i, env in enumerate(self.envs):
                action = environment_action(actions[i].cpu().numpy(), self.heads[i], self.slots, self.one_edit)
                observation, reward, terminated, truncated, info = env.step(action)
                rewards[t, i] = float(reward)
                self.returns[i] += float(reward)
                if terminated or truncated:
                    dones[t, i] = 1.0
                    if truncated and not terminated:  # cut off, not over: the rest is still worth its value
                        bootstraps[t, i] = self._value(observation)
                    finished.append(_episode_metrics(env, self.returns[i], info))
                    self.returns[i] = 0.0
                    observation, _ = env.reset()
                self.observations[i] = observation
            self.global_step += len(self.envs)
        last = decide(self.network, pad(self.observations, self.slots).to(self.device), self.one_edit).value
        values = torch.stack([step[3] for step in steps]).cpu()  # (T, E)
        advantages = generalised_advantages(
            rewards, values, last.cpu(), dones, bootstraps, self.config.gamma, self.config.gae_lambda
        )
        rollout = Rollout(
            Batch.cat([step[0] for step in steps]),
            torch.cat([step[1] for step in steps]),
            torch.cat([step[2] for step in steps]),
            advantages.flatten().to(self.device),
            (advantages + values).flatten().to(self.device),
            values.flatten(),
            torch.cat([step[4] for step in steps]),
            rewards,
        )
        means = {key: float(np.mean([m[key] for m in finished])) for key in finished[0]} if finished else {}
        return rollout, means

    @torch.no_grad()
    def _value(self, observation: Observation) -> float:
        return float(decide(self.network, pad([observation], self.slots).to(self.device), self.one_edit).value[0])

    def _learn(self, rollout: Rollout) -> Metrics:
        config = self.config
        rate = config.learning_rate * (1 - self.update / self.num_updates)
        self.optimizer.param_groups[0]["lr"] = rate
        size = len(rollout.advantages)
        minibatch = max(1, size // config.num_minibatches)
        sums: list[Metrics] = []
        for _ in range(config.update_epochs):
            order = torch.randperm(size, generator=self.generator)
            for start in range(0, size, minibatch):
                index = order[start : start + minibatch].to(self.device)
                sums.append(self._minibatch(rollout, index))
            if sums[-1]["loss/approx_kl"] > config.target_kl:
                break
        metrics = {key: float(np.mean([s[key] for s in sums])) for key in sums[0]}
        spread = float(rollout.returns.var())
        error = float((rollout.returns.cpu() - rollout.values).var())
        metrics["loss/explained_variance"] = 1 - error / spread if spread > 0 else 0.0
        metrics["train/learning_rate"] = rate
        return metrics

    def _minibatch(self, rollout: Rollout, index: Tensor) -> Metrics:
        config = self.config
        batch = rollout.batch[index]
        decision = decide(self.network, batch, self.one_edit)
        valid, actions, returns = decision.actions.valid, rollout.actions[index], rollout.returns[index]
        log_ratio = decision.actions.log_prob(actions) - rollout.log_probs[index]  # (b, K), 0 where invalid
        ratio = log_ratio.exp()
        advantages = rollout.advantages[index][:, None] - rollout.others[index]  # (b, K)
        seen = advantages[valid]
        advantages = (advantages - seen.mean()) / (seen.std(correction=0) + 1e-8)
        clipped = ratio.clamp(1 - config.clip_coef, 1 + config.clip_coef)
        decisions = valid.sum()
        policy_loss = -(torch.minimum(ratio * advantages, clipped * advantages) * valid).sum() / decisions
        value_loss = 0.5 * (decision.value - returns).square().mean()
        if config.factored_baseline and decision.effects is not None:
            effect = decision.effects.gather(-1, actions[..., None])[..., 0].sum(1)
            value_loss = value_loss + 0.5 * (decision.value.detach() + effect - returns).square().mean()
        entropy = decision.actions.entropy().sum() / decisions
        loss = policy_loss - config.ent_coef * entropy + config.vf_coef * value_loss
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), config.max_grad_norm)
        self.optimizer.step()
        with torch.no_grad():
            outside = ((ratio - 1).abs() > config.clip_coef) & valid
            return {
                "loss/policy": float(policy_loss),
                "loss/value": float(value_loss),
                "loss/entropy": float(entropy),
                "loss/approx_kl": float((((ratio - 1) - log_ratio) * valid).sum() / decisions),
                "loss/clip_fraction": float(outside.sum() / decisions),
            }


@dataclass
class Rollout:
    """Experience of one rollout, time and environments flattened to M = T * E.

    Attributes:
        batch: M observations.
        actions, log_probs: (M, K) of each decision.
        advantages, returns, values: (M,).
        others: (M, K) estimated effect of the other choices of the same decision.
        rewards: (T, E).
    """

    batch: Batch
    actions: Tensor
    log_probs: Tensor
    advantages: Tensor
    returns: Tensor
    values: Tensor
    others: Tensor
    rewards: Tensor


def generalised_advantages(
    rewards: Tensor,
    values: Tensor,
    last_values: Tensor,
    dones: Tensor,
    bootstraps: Tensor,
    gamma: float,
    gae_lambda: float,
) -> Tensor:
    """Generalised advantage estimation (Schulman et al. 2016).

    Args:
        rewards, values: (T, E), of each step and of the state before it.
        last_values: (E,) of the state after the last step.
        dones: (T, E), 1 where an episode ended with this step, terminated or truncated.
        bootstraps: (T, E), value of the final state where the episode was truncated, else 0.
        gamma: Discount.
        gae_lambda: Lambda.

    Returns:
        (T, E) advantages.
    """
    advantages, running = torch.zeros_like(rewards), torch.zeros_like(last_values)
    following = last_values
    for t in reversed(range(len(rewards))):
        going_on = 1 - dones[t]
        after = going_on * following + dones[t] * bootstraps[t]
        delta = rewards[t] + gamma * after - values[t]
        running = delta + gamma * gae_lambda * going_on * running
        advantages[t] = running
        following = values[t]
    return advantages


def _episode_metrics(env: gym.Env[Any, Any], episode_return: float, info: dict[str, Any]) -> Metrics:
    return {
        "episode/return": episode_return,
        "episode/ppl": info["ppl"],
        "episode/flops_kept": info["flops"] / env.unwrapped.dense_flops,  # type: ignore[attr-defined]
        "episode/active_share": info["active_heads"] / env.unwrapped.head_slots,  # type: ignore[attr-defined]
        "episode/invalid_actions": float(info["invalid_actions"]),
    }
