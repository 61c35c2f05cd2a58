"""The same network under RLlib's PPO, with env runners on one machine or on many.

The driver holds the learner; env runners are processes that hold environments. What travels: once, each language model and
its text into the object store, one copy a machine, from which runners build their models without copying (see
`plasticity_env.envs.shared_arrays`); then, each iteration, the controller's weights out and episodes back.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from ray.exceptions import RayError, RayTaskError
from ray.rllib.algorithms.ppo import PPO as RayPPO
from ray.rllib.algorithms.ppo import PPOConfig as RayPPOConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.tune.registry import register_env

from plasticity_env.agents.ppo.checkpoint import read_state, write_state
from plasticity_env.agents.ppo.ppo import Callback, Metrics, episode_metrics
from plasticity_env.agents.ppo.ppo_config import PPOConfig
from plasticity_env.agents.rllib.ray_deaths import absent, death
from plasticity_env.agents.rllib.ray_session import ray_session
from plasticity_env.agents.rllib.rllib_envs import HeadRunner, describe, make_vector
from plasticity_env.agents.rllib.rllib_module import HeadModule
from plasticity_env.agents.sb3.sb3 import PadHeads
from plasticity_env.common.errors import InputError
from plasticity_env.controllers.ann import ANNController
from plasticity_env.controllers.network import HeadNetwork
from plasticity_env.model.loading import check_device

ENVIRONMENT, EPISODE = "plasticity", "plasticity_episode"  # names in RLlib
LOSSES = {
    "loss/policy": "policy_loss",
    "loss/value": "vf_loss_unclipped",
    "loss/entropy": "entropy",
    "loss/explained_variance": "vf_explained_var",
    "train/learning_rate": "default_optimizer_learning_rate",
}
PATIENCE = 300.0  # seconds without a sample after which no runner is expected back


class RLlibPPO:
    """Trains a `HeadNetwork` with RLlib's PPO.

    Args:
        envs: Environments to build others like: as many run in all, on the runners in turn (at least one on each).
        config: Configuration of PPO; RLlib has no per-decision ``target_kl`` and no ``factored_baseline``.
        capacity: Head slots; the largest model's when None.
        runners: Env runner processes; 0 samples in this process.
        address: Address of Ray: "local", "auto" or HOST:PORT.
        network: Network to go on with; None makes a fresh one.
        folder: Folder that checkpoints go to; None writes none.
        callback: Called after each iteration with the number of environment steps and the metrics.

    Raises:
        InputError: A model beyond the capacity; later, from `train`: Ray does not answer, or has too few cores.
    """

    def __init__(
        self,
        envs: list[gym.Env[Any, Any]],
        config: PPOConfig,
        *,
        capacity: int | None = None,
        runners: int = 0,
        address: str = "local",
        network: HeadNetwork | None = None,
        folder: Path | None = None,
        callback: Callback | None = None,
    ) -> None:
        self.config, self.runners, self.address = config, runners, address
        self.folder, self.callback = folder, callback
        torch.manual_seed(config.seed)
        self.network = config.make_network() if network is None else network
        self.capacity = capacity or max(env.observation_space["heads"].shape[0] for env in envs)  # type: ignore[index]
        padded = [PadHeads(env, self.capacity) for env in envs]
        self._spaces = padded[0].observation_space, padded[0].action_space
        self._specs, self._packed = describe(envs)
        self.envs_per_runner = math.ceil(len(envs) / max(1, runners))
        self.global_step = self.reference_steps = self._earlier_steps = 0
        self._start: dict[str, Any] | None = None

    @property
    def batch(self) -> int:
        """Environment steps an iteration."""
        return self.config.num_steps * self.envs_per_runner * max(1, self.runners)

    def resume(self) -> bool:
        """Go on from the folder's checkpoint, with new episodes; False where there is none.

        Raises:
            InputError: If the checkpoint belongs to other arguments.
        """
        state = (
            None if self.folder is None else read_state(self.folder, asdict(self.config), torch.device("cpu"), "rllib")
        )
        if state is None:
            return False
        self._start, self.global_step = state["rllib"], state["global_step"]
        self.reference_steps = self._earlier_steps = state.get("reference_steps", 0)
        return True

    def train(self) -> ANNController:
        """Train to the end and return the controller; Ray is left (a local one ended) whatever happens."""
        with self.algorithm() as algorithm:
            while self.global_step < self.config.total_timesteps:
                self.iterate(algorithm)
        return self.controller()

    @contextmanager
    def algorithm(self) -> Iterator[Any]:
        """RLlib's algorithm, for the length of a block."""
        size = sum(packed.nbytes for packed in self._packed)
        with ray_session(self.address, self.runners, size) as ray:
            there = ray.cluster_resources()
            if self.runners > there.get("CPU", 0):
                raise InputError(
                    f"num_env_runners {self.runners} is more than the {there.get('CPU', 0):g} cores of Ray at {self.address!r}: "
                    "ask for fewer, or start Ray on more machines"
                )
            references = [ray.put(packed) for packed in self._packed]
            register_env(ENVIRONMENT, make_vector)
            algorithm = None
            try:
                algorithm = self._settings(references, there.get("GPU", 0.0)).build_algo()
                self._put(algorithm)
                yield algorithm
            except RayTaskError:  # what a runner raised, and no death
                raise
            except RayError as error:
                raise death(error, "an env runner of Ray's") from error
            finally:
                if algorithm is not None:
                    algorithm.stop()

    def iterate(self, algorithm: Any) -> Metrics:
        """Sample, learn, report and save once; where runners died, with those that are left, and again where none are."""
        started, before = time.perf_counter(), self.global_step
        while True:
            result = algorithm.train()
            steps = int(result["env_runners"].get("num_env_steps_sampled", 0)) if "env_runners" in result else 0
            if steps:
                break
            if time.perf_counter() - started > PATIENCE:
                gone = absent(algorithm) or "none is known to have died"
                raise InputError(
                    f"no env runner answered for {PATIENCE:g} seconds ({gone}): check 'ray status', then --resume"
                )
        self.global_step += steps
        metrics = _metrics(result)
        metrics["time/sps"] = (self.global_step - before) / (time.perf_counter() - started)
        self._take(algorithm)
        counts = algorithm.env_runner_group.foreach_env_runner(
            lambda runner: runner.reference_steps(), local_env_runner=self.runners == 0
        )
        # a runner that was replaced begins at 0
        self.reference_steps = max(self.reference_steps, self._earlier_steps + sum(counts))
        if self.callback is not None:
            self.callback(self.global_step, metrics)
        if self.folder is not None:
            self._save(algorithm)
        return metrics

    def controller(self) -> ANNController:
        """The network as it is now; it fits models of any size."""
        info = {"agent": "rllib_ppo", "global_step": self.global_step, "seed": self.config.seed}
        return ANNController(self.network, info=info)

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _settings(self, references: list[Any], gpus: float) -> RayPPOConfig:
        config, total = self.config, self.config.total_timesteps
        observation_space, action_space = self._spaces
        rate = config.learning_rate * (1 - self.global_step / total)  # a resumed run's own count begins at 0
        cuda = check_device(config.device).type == "cuda"
        return (
            RayPPOConfig(algo_class=_HeadPPO)
            .api_stack(enable_rl_module_and_learner=True, enable_env_runner_and_connector_v2=True)
            .environment(
                ENVIRONMENT,
                env_config={"specs": self._specs, "packed": references, "capacity": self.capacity},
                observation_space=observation_space,
                action_space=action_space,
                normalize_actions=False,
                clip_actions=False,
                disable_env_checking=True,
            )
            .env_runners(
                env_runner_cls=HeadRunner,
                num_env_runners=self.runners,
                num_envs_per_env_runner=self.envs_per_runner,
                gym_env_vectorize_mode="vector_entry_point",
                rollout_fragment_length=config.num_steps,
                num_cpus_per_env_runner=1,
                num_gpus_per_env_runner=min(1.0, math.floor(1e4 * gpus / max(1, self.runners)) / 1e4) if cuda else 0,
                sample_timeout_s=None,
            )
            .learners(num_learners=0, num_gpus_per_learner=int(cuda))
            .training(
                lr=[[0, rate], [max(1, total - self.global_step), 0.0]],
                train_batch_size_per_learner=self.batch,
                minibatch_size=max(1, self.batch // config.num_minibatches),
                num_epochs=config.update_epochs,
                gamma=config.gamma,
                lambda_=config.gae_lambda,
                clip_param=config.clip_coef,
                entropy_coeff=config.ent_coef,
                vf_loss_coeff=0.5 * config.vf_coef,
                vf_clip_param=math.inf,
                use_kl_loss=False,
                grad_clip=config.max_grad_norm,
                grad_clip_by="global_norm",
            )
            .rl_module(
                rl_module_spec=RLModuleSpec(
                    module_class=HeadModule, model_config={"network": self.network.config.to_json()}
                )
            )
            .fault_tolerance(restart_failed_env_runners=True, delay_between_env_runner_restarts_s=1.0)
            .callbacks(EpisodeMetrics)
            .debugging(seed=config.seed + self.global_step, log_level="ERROR")
        )

    def _put(self, algorithm: Any) -> None:
        """Give learner and runners the network (and the optimizer) to start from."""
        learner = algorithm.learner_group._learner
        module = learner.module[DEFAULT_MODULE_ID].unwrapped()
        module.network.load_state_dict(self.network.state_dict())
        if self._start is not None:
            module.load_state_dict(self._start["module"])
            self._optimizer(algorithm).load_state_dict(self._start["optimizer"])
            self._start = None
        algorithm.env_runner_group.sync_weights(
            from_worker_or_learner_group=algorithm.learner_group, inference_only=True
        )

    def _take(self, algorithm: Any) -> None:
        module = algorithm.learner_group._learner.module[DEFAULT_MODULE_ID].unwrapped()
        self.network.load_state_dict({name: value.cpu() for name, value in module.network.state_dict().items()})

    def _optimizer(self, algorithm: Any) -> torch.optim.Optimizer:
        return algorithm.learner_group._learner.get_optimizer(DEFAULT_MODULE_ID)

    def _save(self, algorithm: Any) -> None:
        """Write checkpoint and controller, none of them with pickled code."""
        assert self.folder is not None
        module = algorithm.learner_group._learner.module[DEFAULT_MODULE_ID].unwrapped()
        state = {"module": module.state_dict(), "optimizer": self._optimizer(algorithm).state_dict()}
        steps = {"global_step": self.global_step, "reference_steps": self.reference_steps}
        write_state(self.folder, {"config": asdict(self.config), "rllib": state, **steps})
        self.controller().save(self.folder / "controller")


class EpisodeMetrics(RLlibCallback):
    """Logs of each finished episode what the native PPO logs."""

    def on_episode_end(self, **kwargs: Any) -> None:  # type: ignore[override]
        env, info = kwargs["env"].envs[kwargs["env_index"]], kwargs["episode"].get_infos(-1)
        chunks = [*kwargs.get("prev_episode_chunks", ()), kwargs["episode"]]
        for name, value in episode_metrics(env, sum(chunk.get_return() for chunk in chunks), info).items():
            kwargs["metrics_logger"].log_value((EPISODE, name), value, reduce="item_series")


class _HeadPPO(RayPPO):
    """RLlib's PPO without a folder of its own in the user's home."""

    def _setup_logdir(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="rllib_")
        self._logdir = self._temporary.name  # type: ignore[assignment]

    def cleanup(self) -> None:
        super().cleanup()
        self._temporary.cleanup()


def _metrics(result: dict[str, Any]) -> Metrics:
    """What tracking shows of an iteration."""
    finished = result["env_runners"].get(EPISODE, {})
    metrics = {name: float(sum(values) / len(values)) for name, values in finished.items() if len(values)}
    losses = result["learners"][DEFAULT_MODULE_ID]
    metrics.update({name: float(losses[key]) for name, key in LOSSES.items() if key in losses})
    return metrics
