"""The same network under Stable-Baselines3: PPO, and MaskablePPO of sb3-contrib.

Environments are padded to a capacity of head slots, so that one checkpoint serves models of any size within it. Both
algorithms see the mask in the observation and the network applies it itself; MaskablePPO applies it once more.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO as StablePPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import MultiInputActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from plasticity_env.agents.ppo.padding import Batch, environment_action, pad
from plasticity_env.agents.ppo.ppo import Callback, Metrics, episode_metrics, means
from plasticity_env.agents.ppo.ppo_config import PPOConfig
from plasticity_env.common.errors import InputError
from plasticity_env.common.packages import missing, require
from plasticity_env.controllers.ann import ANNController
from plasticity_env.controllers.network import HeadNetwork, NetworkConfig
from plasticity_env.envs.edits import EDITS, KEEP, PRUNE
from plasticity_env.envs.observation import Observation

Padded = dict[str, np.ndarray]
SCORE_BOUND = 1e3  # Stable-Baselines3 clips actions to their space: this far out no order is lost


class PadHeads(gym.Wrapper[Padded, Any, Observation, Any]):
    """Pads an environment of this package to ``capacity`` head slots; padded slots allow only keep, their scores are not read.

    Args:
        env: Heads, HeadEdit or HeadRank.
        capacity: Head slots of the padded spaces.

    Raises:
        InputError: The model has more heads than the capacity.
    """

    def __init__(self, env: gym.Env[Any, Any], capacity: int) -> None:
        super().__init__(env)
        kind = env.get_wrapper_attr("kind")
        self.one_edit, self.ranks = kind == "head_edit", kind == "head_rank"
        self.heads = env.observation_space["heads"].shape[0]  # type: ignore[index]
        if self.heads > capacity:
            raise InputError(
                f"the model has {self.heads} heads, the padded checkpoint takes at most {capacity}: "
                f"train with --capacity {self.heads} or more, or use the native PPO, which has no capacity"
            )
        self.capacity = capacity
        single = env.observation_space["heads"]  # type: ignore[index]
        low, high = single.low[:1], single.high[:1]
        low, high = np.minimum(low, 0), np.maximum(high, 0)  # padding is 0
        self.observation_space = spaces.Dict(  # type: ignore[assignment]
            {
                "heads": spaces.Box(np.tile(low, (capacity, 1)), np.tile(high, (capacity, 1)), dtype=np.float32),
                "globals": env.observation_space["globals"],  # type: ignore[index]
                "mask": spaces.Box(0, 1, (capacity, len(EDITS)), dtype=np.float32),
                "valid": spaces.Box(0, 1, (capacity,), dtype=np.float32),
            }
        )
        actions = 1 + (len(EDITS) - 1) * capacity
        self.action_space = spaces.Discrete(actions) if self.one_edit else spaces.MultiDiscrete([len(EDITS)] * capacity)
        if self.ranks:
            self.action_space = spaces.Box(-SCORE_BOUND, SCORE_BOUND, (capacity,), dtype=np.float32)

    def reset(self, **kwargs: Any) -> tuple[Padded, dict[str, Any]]:
        observation, info = self.env.reset(**kwargs)
        return self._pad(observation), info

    def step(self, action: Any) -> tuple[Padded, float, bool, bool, dict[str, Any]]:
        padded = np.atleast_1d(np.asarray(action))
        if self.one_edit and padded[0] > 0 and (padded[0] - 1) % self.capacity >= self.heads:
            plain: Any = self._no_op()
        elif self.ranks:
            plain = padded[: self.heads]
        else:
            plain = environment_action(padded, self.heads, self.capacity, self.one_edit)
        observation, reward, terminated, truncated, info = self.env.step(plain)
        return self._pad(observation), float(reward), terminated, truncated, info

    def _no_op(self) -> int:
        """An edit that is not allowed here, which the environment ignores and counts: what editing padding means."""
        allowed = self._mask[: self.heads, 1:].T.reshape(-1)  # no head can be both pruned and revived
        return 1 + int(np.flatnonzero(~allowed.astype(bool))[0])

    def action_masks(self) -> np.ndarray:
        """Flat boolean mask over the padded actions."""
        mask = self._mask
        if not self.one_edit:
            return mask.astype(bool).reshape(-1)
        return np.concatenate([[True], mask[:, 1:].T.reshape(-1).astype(bool)])

    def _pad(self, observation: Observation) -> Padded:
        batch = pad([observation], self.capacity)
        self._mask = batch.mask[0].numpy()
        return {
            "heads": batch.heads[0].numpy(),
            "globals": batch.globals[0].numpy(),
            "mask": self._mask.astype(np.float32),
            "valid": batch.valid[0].numpy().astype(np.float32),
        }


class HeadExtractor(BaseFeaturesExtractor):
    """Runs the `HeadNetwork`; its features are the masked action logits and, last, the value.

    Args:
        observation_space: Observation space of a `PadHeads` environment.
        config: Configuration of the network.
        one_edit: HeadEdit's single categorical instead of one per head.
        ranks: HeadRank's scores, keeping over pruning, instead of logits.
    """

    def __init__(
        self, observation_space: spaces.Dict, config: NetworkConfig, one_edit: bool, ranks: bool = False
    ) -> None:
        capacity = observation_space["mask"].shape[0]  # type: ignore[index]
        actions = capacity if ranks else 1 + 3 * capacity if one_edit else len(EDITS) * capacity
        super().__init__(observation_space, actions + 1)
        self.network = HeadNetwork(config)
        self.one_edit, self.ranks = one_edit, ranks

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        batch = Batch(
            observations["heads"], observations["globals"], observations["mask"] > 0.5, observations["valid"] > 0.5
        )
        output = self.network(batch.heads, batch.globals, batch.valid)
        if self.ranks:
            logits = (output.edits[..., KEEP] - output.edits[..., PRUNE]) * batch.valid
        elif self.one_edit:
            edits = (output.edits[..., 1:] - output.edits[..., :1]).masked_fill(~batch.mask[..., 1:], -1e9)
            logits = torch.cat([output.stop[:, None], edits.transpose(1, 2).flatten(1)], 1)
        else:
            logits = output.edits.masked_fill(~batch.mask, -1e9).flatten(1)
        return torch.cat([logits, output.value[:, None]], 1)


class _Part(nn.Module):
    """Picks columns of the extractor's features: the logits or the value."""

    def __init__(self, start: int | None, stop: int | None) -> None:
        super().__init__()
        self._columns = slice(start, stop)

    def forward(self, features: Tensor) -> Tensor:
        return features[:, self._columns]


class _HeadPolicy(MultiInputActorCriticPolicy):
    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        _use_parts(self, lr_schedule)


if missing("sb3_contrib", "rl") is None:  # it comes with an extra; `build` says so where it is asked for
    from sb3_contrib import MaskablePPO
    from sb3_contrib.common.maskable.policies import MaskableMultiInputActorCriticPolicy

    class _MaskedHeadPolicy(MaskableMultiInputActorCriticPolicy):
        def _build(self, lr_schedule: Any) -> None:
            super()._build(lr_schedule)
            _use_parts(self, lr_schedule)


def _use_parts(policy: Any, lr_schedule: Any) -> None:
    policy.action_net, policy.value_net = _Part(None, -1), _Part(-1, None)
    if isinstance(policy.action_space, spaces.Box):  # one spread for all heads, of any model
        policy.log_std = nn.Parameter(torch.zeros(1, device=policy.device))
    policy.optimizer = policy.optimizer_class(policy.parameters(), lr=lr_schedule(1), **policy.optimizer_kwargs)


def build(
    envs: list[gym.Env[Any, Any]],
    config: PPOConfig,
    capacity: int | None = None,
    maskable: bool = False,
    network: HeadNetwork | None = None,
) -> StablePPO | MaskablePPO:
    """Make an SB3 algorithm over the same network, with the same arguments as the native PPO.

    Args:
        envs: Environments of this package, of one id.
        config: Configuration of PPO; `target_kl` is per decision, as SB3's is per action.
        capacity: Head slots; the largest model's when None.
        maskable: MaskablePPO instead of PPO; it knows no scores, so not on HeadRank.
        network: Network to go on with; None makes a fresh one.

    Raises:
        InputError: MaskablePPO on HeadRank, or a model that exceeds the capacity.
    """
    from stable_baselines3.common.vec_env import DummyVecEnv

    slots = max(env.observation_space["heads"].shape[0] for env in envs)  # type: ignore[index]
    padded = [PadHeads(env, capacity or slots) for env in envs]
    vector = DummyVecEnv([lambda env=env: env for env in padded])  # type: ignore[misc]
    if maskable:
        require("sb3_contrib", "rl")
    if maskable and padded[0].ranks:
        raise InputError("MaskablePPO masks choices, and an action of plasticity/HeadRank-v1 is scores: use PPO there")
    batch = config.num_steps * len(envs)
    if batch < 2:
        raise InputError(
            "Stable-Baselines3 normalises advantages over a rollout: num_steps x environments must be at least 2"
        )
    arguments: dict[str, Any] = dict(
        n_steps=config.num_steps,
        batch_size=max(2, batch // config.num_minibatches),
        n_epochs=config.update_epochs,
        learning_rate=lambda left: config.learning_rate * left,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        clip_range=config.clip_coef,
        ent_coef=config.ent_coef,
        vf_coef=config.vf_coef,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        device=config.device,
        policy_kwargs={
            "net_arch": [],
            "ortho_init": False,
            "features_extractor_class": HeadExtractor,
            "features_extractor_kwargs": {
                "config": config.network_config() if network is None else network.config,
                "one_edit": padded[0].one_edit,
                "ranks": padded[0].ranks,
            },
        },
    )
    algorithm: StablePPO | MaskablePPO
    algorithm = (
        MaskablePPO(_MaskedHeadPolicy, vector, **arguments) if maskable else StablePPO(_HeadPolicy, vector, **arguments)
    )
    if network is not None:
        algorithm.policy.features_extractor.network.load_state_dict(network.state_dict())  # type: ignore[union-attr]
    return algorithm


def controller_of(algorithm: StablePPO | MaskablePPO, info: dict[str, Any] | None = None) -> ANNController:
    """The controller inside a trained SB3 algorithm; it fits models of any size."""
    extractor = algorithm.policy.features_extractor
    assert isinstance(extractor, HeadExtractor)
    return ANNController(extractor.network, info=info)


class Report(BaseCallback):
    """Calls back with the metrics of finished episodes once a rollout was learned from, as the native PPO does."""

    def __init__(self, callback: Callback) -> None:
        super().__init__()
        self._report = callback
        self._finished: list[Metrics] = []
        self._returns: np.ndarray | None = None

    def _on_step(self) -> bool:
        rewards, dones, infos = self.locals["rewards"], self.locals["dones"], self.locals["infos"]
        self._returns = np.zeros(len(rewards)) if self._returns is None else self._returns
        self._returns += rewards
        for i in np.flatnonzero(dones):
            env = self.training_env.envs[i]  # type: ignore[attr-defined]
            self._finished.append(episode_metrics(env, float(self._returns[i]), infos[i]))
            self._returns[i] = 0.0
        return True

    def _on_rollout_start(self) -> None:
        self._tell()  # of the rollout before, which has been learned from by now

    def _on_training_end(self) -> None:
        self._tell()

    def _tell(self) -> None:
        if self._finished:
            metrics = means(self._finished)
            self._finished.clear()
            self._report(self.num_timesteps, metrics)
