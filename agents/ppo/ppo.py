"""Proximal policy optimisation (Schulman et al. 2017) over several environments, whose models may differ in size.

Reads from top to bottom as the algorithm goes: rollout, generalised advantage estimation, update. Three things differ from
the textbook. Heads are chosen independently given the observation, so each head has its own probability ratio, and clipping
acts on it (one joint ratio over hundreds of heads would clip most samples). For the same reason each head's advantage may be
freed of what the critic thinks the other heads' choices did, without bias (factorised baselines, Wu et al. 2018). And gamma
is 1: rewards are differences of a potential, so only the undiscounted return cannot be pumped by a loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from plasticity_env.agents.ppo.checkpoint import environment_state, read_state, resume_environment, write_state
from plasticity_env.agents.ppo.padding import Batch, decide, environment_action, pad
from plasticity_env.agents.ppo.ppo_config import PPOConfig
from plasticity_env.common.errors import InputError
from plasticity_env.controllers.ann import ANNController
from plasticity_env.controllers.network import HeadNetwork
from plasticity_env.envs.observation import Observation
from plasticity_env.model.loading import check_device

Metrics = dict[str, float]
Callback = Callable[[int, Metrics], None]


class PolicyLearner:
    """What stays from update to update: network, optimizer, random draws and counts.

    Args:
        config: Arguments.
        network: Network to go on with; a fresh one when None.
        folder: Folder for checkpoints; None writes none.
        callback: Called after each update with the number of environment steps and the metrics.
    """

    def __init__(
        self, config: PPOConfig, network: HeadNetwork | None, folder: Path | None, callback: Callback | None
    ) -> None:
        self.config, self.folder, self.callback = config, folder, callback
        torch.manual_seed(config.seed)
        self.device = check_device(config.device)
        self.network = (config.make_network() if network is None else network).to(self.device).train()
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate, eps=1e-5)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.global_step = self.update = 0

    def state(self) -> dict[str, Any]:
        """Everything that the next update depends on, as tensors and plain values."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "global_step": self.global_step,
            "update": self.update,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"].cpu())
        self.global_step, self.update = state["global_step"], state["update"]


@dataclass
class Rollout:
    """T steps of E environments; their decisions, of K choices each, are flattened to M = T * E.

    Attributes:
        batch: M observations.
        actions, log_probs: (M, K) of each choice.
        others: (M, K) estimated effect of the other choices of the same decision.
        rewards, values: (T, E), of each step and of the state before it.
        dones: (T, E), 1 where an episode ended with this step, terminated or truncated.
        bootstraps: (T, E), value of the final state where the episode was truncated, else 0.
        last_values: (E,) of the state after the last step.
    """

    batch: Batch
    actions: Tensor
    log_probs: Tensor
    others: Tensor
    rewards: Tensor
    values: Tensor
    dones: Tensor
    bootstraps: Tensor
    last_values: Tensor


class PPO(PolicyLearner):
    """Trains a `HeadNetwork` in one or several environments.

    Args:
        envs: Gymnasium environments of this package, all of one id; models may differ in layers and heads.
        config: Arguments.
        folder: Folder for checkpoints; None writes none.
        callback: Called after each update with the number of environment steps and the metrics.
        network: Network to go on with; a fresh one when None.

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
        super().__init__(config, network, folder, callback)
        self.envs = envs
        self.one_edit = envs[0].get_wrapper_attr("kind") == "head_edit"
        self.heads = [env.observation_space["heads"].shape[0] for env in envs]  # type: ignore[index]
        self.slots = max(self.heads)
        self.num_updates = max(1, config.total_timesteps // (config.num_steps * len(envs)))
        self.observations: list[Observation] = []
        self.returns = [0.0] * len(envs)  # so far, of the running episodes

    def train(self) -> ANNController:
        """Train to the end, from the latest checkpoint if `resume` loaded one, and return the controller."""
        if not self.observations:
            self.observations = [env.reset(seed=self.config.seed + 1000 * i)[0] for i, env in enumerate(self.envs)]
        while self.update < self.num_updates:
            started = time.perf_counter()
            rollout, episodes = self._rollout()
            advantages = self._advantages(rollout)
            losses = self._update(rollout, advantages)
            self.update += 1
            metrics = {**episodes, **losses, "time/sps": rollout.rewards.numel() / (time.perf_counter() - started)}
            if self.callback is not None:
                self.callback(self.global_step, metrics)
            due = self.update % self.config.checkpoint_every == 0 or self.update == self.num_updates
            if self.folder is not None and due:
                write_state(self.folder, self.state())
        return self.controller()

    def controller(self) -> ANNController:
        """The network as it is now."""
        info = {"agent": "ppo", "global_step": self.global_step, "seed": self.config.seed}
        return ANNController(self.network, info=info)

    def state(self) -> dict[str, Any]:
        episodes = {"returns": list(self.returns), "environments": [environment_state(env) for env in self.envs]}
        return {"config": asdict(self.config), **super().state(), **episodes}

    def resume(self) -> bool:
        """Load the latest checkpoint of the folder, so that `train` goes on exactly; False where there is none.

        Raises:
            InputError: The checkpoint belongs to other arguments.
        """
        if self.folder is None:
            return False
        state = read_state(self.folder, asdict(self.config), self.device, "environments")
        if state is None:
            return False
        saved = state["environments"]
        if len(saved) != len(self.envs):
            raise InputError(f"the checkpoint has {len(saved)} environments, this training {len(self.envs)}")
        self.load_state(state)
        self.returns = list(state["returns"])
        self.observations = [resume_environment(env, data) for env, data in zip(self.envs, saved, strict=True)]
        return True

    # -- 1. rollout ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _rollout(self) -> tuple[Rollout, Metrics]:
        steps: list[tuple[Batch, Tensor, Tensor, Tensor, Tensor]] = []
        rewards = torch.zeros(self.config.num_steps, len(self.envs))  # (T, E)
        dones, bootstraps = torch.zeros_like(rewards), torch.zeros_like(rewards)
        finished: list[Metrics] = []
        for t in range(self.config.num_steps):
            batch = pad(self.observations, self.slots).to(self.device)
            decision = decide(self.network, batch, self.one_edit)
            actions = decision.actions.sample(self.generator)  # (E, K)
            others = torch.zeros_like(decision.actions.valid, dtype=torch.float32)
            if self.config.factored_baseline and decision.effects is not None:
                effect = decision.effects.gather(-1, actions[..., None])[..., 0]  # (E, K)
                others = effect.sum(1, keepdim=True) - effect
            steps.append((batch, actions, decision.actions.log_prob(actions), others, decision.value))
            for i, env in enumerate(self.envs):
                action = environment_action(actions[i].cpu().numpy(), self.heads[i], self.slots, self.one_edit)
                observation, reward, terminated, truncated, info = env.step(action)
                rewards[t, i] = float(reward)
                self.returns[i] += float(reward)
                if terminated or truncated:
                    dones[t, i] = 1.0
                    if truncated and not terminated:  # cut off, not over: the rest is still worth its value
                        bootstraps[t, i] = self._values([observation])[0]
                    finished.append(episode_metrics(env, self.returns[i], info))
                    self.returns[i] = 0.0
                    observation, _ = env.reset()
                self.observations[i] = observation
            self.global_step += len(self.envs)
        seen, actions_taken, log_probs, effects, values = zip(*steps, strict=True)
        rollout = Rollout(
            batch=Batch.cat(list(seen)),
            actions=torch.cat(actions_taken),
            log_probs=torch.cat(log_probs),
            others=torch.cat(effects),
            rewards=rewards,
            values=torch.stack(values).cpu(),
            dones=dones,
            bootstraps=bootstraps,
            last_values=self._values(self.observations),
        )
        return rollout, means(finished)

    @torch.no_grad()
    def _values(self, observations: list[Observation]) -> Tensor:
        """(E,) expected returns of E observations, on the processor."""
        return decide(self.network, pad(observations, self.slots).to(self.device), self.one_edit).value.cpu()

    # -- 2. generalised advantage estimation (Schulman et al. 2016) ----------------------------------------------------

    def _advantages(self, rollout: Rollout) -> Tensor:
        """(T, E): how much better than expected each step turned out, by sums of temporal differences that fade."""
        gamma, fading = self.config.gamma, self.config.gamma * self.config.gae_lambda
        advantages, running = torch.zeros_like(rollout.rewards), torch.zeros_like(rollout.last_values)
        following = rollout.last_values  # (E,) value of the state after step t
        for t in reversed(range(len(rollout.rewards))):
            going_on = 1 - rollout.dones[t]
            after = going_on * following + rollout.dones[t] * rollout.bootstraps[t]
            delta = rollout.rewards[t] + gamma * after - rollout.values[t]
            running = delta + fading * going_on * running
            advantages[t] = running
            following = rollout.values[t]
        return advantages

    # -- 3. update -----------------------------------------------------------------------------------------------------

    def _update(self, rollout: Rollout, advantages: Tensor) -> Metrics:
        returns = (advantages + rollout.values).flatten()  # (M,)
        all_advantages, all_returns = advantages.flatten().to(self.device), returns.to(self.device)

        def choices(index: Tensor) -> Choices:
            decision = decide(self.network, rollout.batch[index], self.one_edit)
            actions, valid = rollout.actions[index], decision.actions.valid
            log_probs = decision.actions.log_prob(actions)
            advantages = all_advantages[index][:, None] - rollout.others[index]  # (b, K)
            seen = advantages[valid]
            advantages = (advantages - seen.mean()) / (seen.std(correction=0) + 1e-8)
            value_loss = 0.5 * (decision.value - all_returns[index]).square().mean()
            if self.config.factored_baseline and decision.effects is not None:
                effect = decision.effects.gather(-1, actions[..., None])[..., 0].sum(1)  # (b,)
                with_effects = decision.value.detach() + effect
                value_loss = value_loss + 0.5 * (with_effects - all_returns[index]).square().mean()
            entropies = decision.actions.entropy()
            return Choices(log_probs, rollout.log_probs[index], advantages, valid, entropies, value_loss)

        size = len(returns)
        rate = self.config.learning_rate * (1 - self.update / self.num_updates)
        metrics = clipped_update(self, rate, size, max(1, size // self.config.num_minibatches), choices)
        spread, error = float(returns.var()), float((returns - rollout.values.flatten()).var())
        metrics["loss/explained_variance"] = 1 - error / spread if spread > 0 else 0.0
        return metrics


@dataclass(frozen=True)
class Choices:
    """The b decisions of a minibatch, of K choices each, under the network as it is now.

    Attributes:
        log_probs: (b, K) log-probability of each choice now; 0 where there was none.
        old_log_probs: (b, K) the same when the choices were made.
        advantages: (b, K), or (b, 1) for all choices of a decision, normalised.
        made: (b, K) boolean, False where there was nothing to choose.
        entropies: (b, K) nats, 0 where there was nothing to choose.
        value_loss: () loss of the critic; None where none learns.
    """

    log_probs: Tensor
    old_log_probs: Tensor
    advantages: Tensor
    made: Tensor
    entropies: Tensor
    value_loss: Tensor | None = None


def clipped_update(
    learner: PolicyLearner, rate: float, decisions: int, minibatch: int, choices: Callable[[Tensor], Choices]
) -> Metrics:
    """Some epochs of gradient steps on the clipped objective, until the policy has moved by ``target_kl``.

    Args:
        learner: Owner of the network, optimizer and draws.
        rate: Learning rate of this update.
        decisions: M, how many decisions to learn from.
        minibatch: Decisions in a gradient step.
        choices: Maps (b,) numbers of decisions to what they are under the network as it is now.

    Returns:
        Means of the losses over gradient steps.
    """
    config, steps = learner.config, list[Metrics]()
    learner.optimizer.param_groups[0]["lr"] = rate
    for _ in range(config.update_epochs):
        order = torch.randperm(decisions, generator=learner.generator)
        for start in range(0, decisions, minibatch):
            index = order[start : start + minibatch].to(learner.device)
            steps.append(_gradient_step(learner, choices(index)))
        if steps[-1]["loss/approx_kl"] > config.target_kl:
            break
    return {**means(steps), "train/learning_rate": rate}


def _gradient_step(learner: PolicyLearner, choices: Choices) -> Metrics:
    config, made, advantages = learner.config, choices.made, choices.advantages
    count = made.sum().clamp(min=1)
    log_ratio = choices.log_probs - choices.old_log_probs  # (b, K), 0 where nothing was chosen
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - config.clip_coef, 1 + config.clip_coef)
    policy_loss = -(torch.minimum(ratio * advantages, clipped * advantages) * made).sum() / count
    entropy = choices.entropies.sum() / count
    loss = policy_loss - config.ent_coef * entropy
    if choices.value_loss is not None:
        loss = loss + config.vf_coef * choices.value_loss
    learner.optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(learner.network.parameters(), config.max_grad_norm)
    learner.optimizer.step()
    with torch.no_grad():
        outside = ((ratio - 1).abs() > config.clip_coef) & made
        metrics = {
            "loss/policy": float(policy_loss),
            "loss/entropy": float(entropy),
            "loss/approx_kl": float((((ratio - 1) - log_ratio) * made).sum() / count),
            "loss/clip_fraction": float(outside.sum() / count),
        }
        if choices.value_loss is not None:
            metrics["loss/value"] = float(choices.value_loss)
    return metrics


def means(rows: list[Metrics]) -> Metrics:
    """The mean of each metric over rows that have the same ones; none of no rows."""
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]} if rows else {}


def episode_metrics(env: gym.Env[Any, Any], episode_return: float, info: dict[str, Any]) -> Metrics:
    """What tracking shows of a finished episode.

    Args:
        env: The environment that it was played in.
        episode_return: Sum of its rewards.
        info: Info dictionary of its last step.
    """
    base: Any = env.unwrapped
    return {
        "episode/return": episode_return,
        "episode/ppl": info["ppl"],
        "episode/flops_kept": info["flops"] / base.dense_flops,
        "episode/active_share": info["active_heads"] / base.head_slots,
        "episode/invalid_actions": float(info["invalid_actions"]),
    }
