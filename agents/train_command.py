"""One training run: environments, an agent, tracking, and a folder that holds everything it made."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import gymnasium as gym
import yaml

from plasticity_env import controllers
from plasticity_env.agents.ppo.checkpoint import check_arguments, has_checkpoint
from plasticity_env.agents.ppo.ppo import PPO, Callback, Metrics, PPOConfig
from plasticity_env.agents.ppo.price_shares import price_shares
from plasticity_env.agents.ppo.rank_ppo import RankPPO
from plasticity_env.agents.ppo.scenario_env import RelativeRise
from plasticity_env.agents.ppo.scenarios import MASKABLE_NEEDS_CHOICES, RankConfig, Stage, modes_of
from plasticity_env.agents.rllib.ray_session import check_address, require_ray
from plasticity_env.common.arguments import check_counts, flags, nested, plain
from plasticity_env.common.cli import words
from plasticity_env.common.errors import InputError, unknown
from plasticity_env.common.files import write_text
from plasticity_env.common.progress import Progress
from plasticity_env.common.tracking import Tracker, TrackingOptions, holds_run, new_run_folder, resolve_mode
from plasticity_env.controllers.ann import ANNController
from plasticity_env.controllers.network import HeadNetwork
from plasticity_env.envs.edits import EDITS
from plasticity_env.envs.settings import UNIT_ARGUMENTS, Settings, bounds

AGENTS = ("ppo", "sb3_ppo", "sb3_maskable_ppo", "rllib_ppo")
ENVIRONMENTS = {
    "heads": "plasticity/Heads-v0",
    "head_edit": "plasticity/HeadEdit-v0",
    "head_rank": "plasticity/HeadRank-v0",
}


SIGNAL_SETTINGS = ("obs_signal", "residual_signal", "crossfit_signal")
ARGUMENTS = "config.yaml"  # of a run, in its folder
RESUMED = ("agent", "env", "model_name", "mode")  # and the environment's arguments, and what is ranked


@dataclass(frozen=True)
class TrainConfig:
    """Arguments of a training run."""

    agent: str = "ppo"
    """ppo (our own), sb3_ppo, sb3_maskable_ppo or rllib_ppo (Ray)"""
    env: str = "heads"
    """heads (all heads at once), head_edit (one edit a step) or head_rank (a score for every head)"""
    model_name: str = "bard-gpt2-4x4"
    """language models to train on, separated by commas: embedded names, folders, GGUF files or hub names"""
    mode: str = "adaptive"
    """adaptive (prune, revive, grow) or compressed (prune for good); HeadRank: or both, separated by a comma"""
    settings: Annotated[
        Settings, flags(Settings, hidden=("model_name", "mode", "pruned_share", "device"), train_rate="learning_rate")
    ] = Settings(horizon=4, calibration_blocks=8, reward_blocks=8)
    """of the environments; HeadRank has --rounds instead of --horizon"""
    envs_per_model: int = 4
    """environments over each language model"""
    capacity: int | None = None
    """head slots of a Stable-Baselines3 checkpoint; unset: the largest model's"""
    num_env_runners: int = 0
    """rllib_ppo: processes that the environments are spread over; 0 samples in this one"""
    ray_address: str = "local"
    """rllib_ppo: local (processes of this machine), auto (the cluster that this machine belongs to) or HOST:PORT"""
    start_from: str | None = None
    """controller to go on training: ann (the shipped one) or the folder of a saved one; unset: from zero"""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    rank: RankConfig = field(default_factory=RankConfig)
    tracking: TrackingOptions = field(default_factory=TrackingOptions)
    output_dir: Path | None = None
    """run folder; unset: a new one under runs/"""
    resume: bool = False
    """go on from the checkpoint in --output_dir"""

    def __post_init__(self) -> None:
        if self.agent not in AGENTS:
            raise unknown("agent", self.agent, AGENTS)
        if self.env not in ENVIRONMENTS:
            raise unknown("environment", self.env, ENVIRONMENTS)
        check_counts(self, envs_per_model=1, num_env_runners=0)
        if self.agent != "rllib_ppo" and (self.num_env_runners or self.ray_address != "local"):
            raise InputError(f"--num_env_runners and --ray_address are for --agent rllib_ppo, not {self.agent}")
        if self.agent == "ppo" and self.capacity is not None:
            raise InputError(
                "--capacity is for the agents sb3_ppo, sb3_maskable_ppo and rllib_ppo: ppo needs no padding"
            )
        modes = modes_of(self.mode)
        if self.env != "head_rank":
            if len(modes) > 1:
                raise InputError(f"mode {self.mode!r}: several modes at once need --env head_rank")
            if self.ppo.context == "linear" and self.start_from is None:
                raise InputError(f"context 'linear' ranks heads: use it with --env head_rank, not {self.env}")
        elif self.settings.train_steps:
            raise InputError(
                f"train_steps {self.settings.train_steps} needs --env heads or head_edit: HeadRank trains on frozen models"
            )
        elif self.agent == "sb3_maskable_ppo":
            raise InputError(MASKABLE_NEEDS_CHOICES)
        resolve_mode(self.tracking.wandb_mode)
        if not words(self.model_name):
            raise InputError("model_name is empty: give at least one language model")
        if self.resume and self.output_dir is None:
            raise InputError("--resume needs --output_dir, the folder of the run to go on with")

    def signals(self) -> list[str]:
        """The settings whose signals its environments measure; cross-fitted scores come with the residual ones only."""
        off = set() if self.settings.residual_signal else {"crossfit_signal"}
        return [name for name in SIGNAL_SETTINGS if getattr(self.settings, name) and name not in off]

    def environment(self, model: str) -> Settings:
        """The settings of the environments over one of the models."""
        changes: dict[str, Any] = {"model_name": model, "mode": modes_of(self.mode)[0], "device": self.ppo.device}
        if self.env == "head_rank":
            changes |= {"horizon": max(self.rank.round_numbers), "pruned_share": self.rank.shares}
        return replace(self.settings, **changes)


def make_environments(config: TrainConfig) -> list[gym.Env[Any, Any]]:
    """Build the environments of a run; those over one frozen model share its weights and memo."""
    envs: list[gym.Env[Any, Any]] = []
    for model in words(config.model_name):
        if config.env == "head_rank":
            envs += _ranking_environments(config, model)
            continue
        first = gym.make(ENVIRONMENTS[config.env], **config.environment(model).kwargs())
        envs.append(first)
        base = first.unwrapped
        for _ in range(config.envs_per_model - 1):
            envs.append(base.fork())  # type: ignore[attr-defined]
    return envs


def _ranking_environments(config: TrainConfig, model: str) -> list[gym.Env[Any, Any]]:
    """HeadRank environments whose rounds and modes take turns; one alone for our PPO, which plays scenarios of its own."""
    turns = [
        {"horizon": rounds, "mode": mode} for rounds in config.rank.round_numbers for mode in modes_of(config.mode)
    ]
    if config.agent == "ppo":
        return [gym.make(ENVIRONMENTS["head_rank"], **config.environment(model).kwargs())]
    first: dict[int, Any] = {}
    envs: list[gym.Env[Any, Any]] = []
    for index in range(config.envs_per_model):
        turn = index % len(turns)
        if turn in first:
            env: Any = first[turn].unwrapped.fork()
        else:
            first[turn] = env = gym.make(
                ENVIRONMENTS["head_rank"], **{**config.environment(model).kwargs(), **turns[turn]}
            )
        envs.append(RelativeRise(env, config.rank.reference))
    return envs


def train(config: TrainConfig) -> Path:
    """Train a controller and write everything into a run folder.

    Args:
        config: Arguments.

    Returns:
        The folder: ``config.yaml``, ``metrics.jsonl``, ``tensorboard/``, ``controller/``, ``checkpoint.pt``, W&B if on.

    Raises:
        InputError: Arguments that cannot be used, before anything is written.
    """
    if config.resume:
        check_resumed(config)
    envs = make_environments(config)
    _check(config, envs)
    learner = make_learner(config, envs)
    folder = config.output_dir or new_run_folder(f"train_{config.agent}")
    folder.mkdir(parents=True, exist_ok=True)
    resolved = plain(config)
    write_text(folder / ARGUMENTS, yaml.safe_dump(resolved, sort_keys=False))
    with (
        Tracker(folder, resolved, config.tracking, resume=config.resume) as tracker,
        Progress("training", config.ppo.total_timesteps, start=learner.start) as progress,
    ):
        if config.resume:
            tracker.rewind(learner.start)

        def report(step: int, metrics: Metrics) -> None:
            tracker.log(metrics, step)
            shown = {key.partition("/")[2]: metrics[key] for key in _SHOWN if key in metrics}
            progress.update(min(step, config.ppo.total_timesteps), **shown)

        controller = learner.learn(folder, report)
        controller.info.update(
            {
                "models": words(config.model_name),
                "env": config.env,
                "mode": config.mode,
                "repair": config.settings.repair,
            }
        )
        controller.info["signals"] = config.signals()
        if config.settings.units != "heads":
            controller.info |= {name: getattr(config.settings, name) for name in UNIT_ARGUMENTS}
        if config.env == "head_rank":
            pairs = price_shares(_stage(config), controller, config.ppo.seed)
            controller.info["price_shares"] = [list(pair) for pair in pairs]
        controller.save(folder / "controller")
        tracker.artifact("controller", folder / "controller")
        columns, rows = head_edits(controller, envs, config)
        tracker.table("head_edits", columns, rows)
    return folder


_SHOWN = ("episode/ppl", "episode/flops_kept", "episode/return")


def _check(config: TrainConfig, envs: list[gym.Env[Any, Any]]) -> None:
    """Refuse what would only fail after the run folder exists."""
    if config.agent == "rllib_ppo":
        require_ray("ray.rllib")
        check_address(config.ray_address)
    if config.agent != "ppo":
        from plasticity_env.agents.sb3.sb3 import PadHeads

        if config.resume and config.agent != "rllib_ppo":
            raise InputError(
                f"--resume is for --agent ppo and rllib_ppo; {config.agent} starts anew (Stable-Baselines3 keeps no episode "
                "state)"
            )
        if config.capacity is not None:
            for env in envs:
                PadHeads(env, config.capacity)
        if isinstance(envs[0], RelativeRise):
            envs[0].let_rule_act()
    if not config.resume and config.output_dir is not None and holds_run(config.output_dir):
        raise InputError(f"{str(config.output_dir)!r} holds a run already: choose another --output_dir, or --resume")
    elif config.resume and not has_checkpoint(config.output_dir or Path()):
        raise InputError(
            f"no checkpoint in {str(config.output_dir)!r} to resume from: leave --resume out to start, in another folder where "
            "this one holds a run"
        )


def check_resumed(config: TrainConfig) -> None:
    """Refuse to go on with the run of another agent, or on other environments.

    Raises:
        InputError: An argument that must stay differs from the folder's; a folder that does not hold them is taken at its word.
    """
    names = (*RESUMED, *nested(config)["settings"], *nested(config)["rank"])
    check_arguments((config.output_dir or Path()) / ARGUMENTS, config, names)


def _start(config: TrainConfig) -> HeadNetwork | None:
    """The network to go on with."""
    if config.start_from is None:
        return None
    controller = controllers.make(config.start_from)
    if not isinstance(controller, ANNController):
        raise InputError(
            f"--start_from {config.start_from!r} has no network to train: give ann or a saved controller's folder"
        )
    return controller.network


def _stage(config: TrainConfig) -> Stage:
    models = words(config.model_name)
    return Stage(models, config.environment(models[0]), config.rank, modes_of(config.mode))


@dataclass(frozen=True)
class Learner:
    """An agent that is ready to train.

    Attributes:
        start: Environment steps that it has behind it.
        learn: Trains to the end, given a folder for checkpoints and what to call after each update; returns the controller.
        now: The controller as it is.
        reference_steps: Steps that a reference rule has taken so far, where the agent's own count leaves them out.
    """

    start: int
    learn: Callable[[Path, Callback], ANNController]
    now: Callable[[], ANNController]
    reference_steps: Callable[[], int] = lambda: 0


def make_learner(config: TrainConfig, envs: list[gym.Env[Any, Any]]) -> Learner:
    """Build the agent over its environments; with ``resume`` it goes on from the checkpoint in ``output_dir``."""
    network = _start(config)
    if config.agent == "ppo":
        ppo: PPO | RankPPO
        if config.env == "head_rank":
            ppo = RankPPO(_stage(config), config.ppo, network, config.output_dir)
        else:
            ppo = PPO(envs, config.ppo, config.output_dir, network=network)
        if config.resume:
            ppo.resume()

        def learn(folder: Path, report: Callback) -> ANNController:
            ppo.folder, ppo.callback = folder, report
            return ppo.train()

        return Learner(ppo.global_step, learn, ppo.controller)
    if config.agent == "rllib_ppo":
        return _rllib_learner(config, envs, network)
    from plasticity_env.agents.sb3 import sb3

    algorithm = sb3.build(envs, config.ppo, config.capacity, config.agent == "sb3_maskable_ppo", network)

    def now() -> ANNController:
        info = {"agent": config.agent, "global_step": algorithm.num_timesteps, "seed": config.ppo.seed}
        return sb3.controller_of(algorithm, info)

    def learn_sb3(folder: Path, report: Callback) -> ANNController:
        algorithm.learn(config.ppo.total_timesteps, callback=sb3.Report(report))
        return now()

    def reference_steps() -> int:
        return sum(env.reference_steps for env in envs if isinstance(env, RelativeRise))

    return Learner(0, learn_sb3, now, reference_steps)


def _rllib_learner(config: TrainConfig, envs: list[gym.Env[Any, Any]], network: HeadNetwork | None) -> Learner:
    from plasticity_env.agents.rllib.rllib import RLlibPPO

    ppo = RLlibPPO(
        envs,
        config.ppo,
        capacity=config.capacity,
        runners=config.num_env_runners,
        address=config.ray_address,
        network=network,
        folder=config.output_dir,
    )
    if config.resume:
        ppo.resume()

    def learn(folder: Path, report: Callback) -> ANNController:
        ppo.folder, ppo.callback = folder, report
        return ppo.train()

    return Learner(ppo.global_step, learn, ppo.controller, lambda: ppo.reference_steps)


def head_edits(
    controller: ANNController, envs: list[gym.Env[Any, Any]], config: TrainConfig
) -> tuple[list[str], list[list[Any]]]:
    """Play an episode per model at the lowest, middle and highest price (share, on HeadRank); list each edit and its result."""
    what = "pruned_share" if config.env == "head_rank" else "flop_price"
    columns = ["model", what, "step", "edit", "layer", "head", "ppl", "flops_kept"]
    rows: list[list[Any]] = []
    low, high = config.rank.shares if what == "pruned_share" else bounds(config.settings.flop_price)
    first = {env.unwrapped.workbench.name: env.unwrapped for env in reversed(envs)}  # type: ignore[attr-defined]
    for base in reversed(first.values()):
        for value in sorted({low, math.sqrt(low * high), high}):
            observation, info = base.reset(seed=0, options={what: value})
            over, step = False, 0
            while not over:
                before, action = base.workbench.model.active, controller.act(observation)
                asked = base.edits_of(action)[0]
                observation, _, terminated, truncated, info = base.step(action)
                over, step = terminated or truncated, step + 1
                changed = before != base.workbench.model.active
                kept = info["flops"] / base.dense_flops
                for layer, head in changed.nonzero().tolist():
                    edit = EDITS[int(asked[layer, head])]
                    rows.append([base.workbench.name, value, step, edit, layer, head, info["ppl"], kept])
    return columns, rows
