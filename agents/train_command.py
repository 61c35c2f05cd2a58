"""One training run: environments, an agent, tracking, and a folder that holds everything it made."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

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
from plasticity_env.common.cli import words
from plasticity_env.common.errors import InputError, unknown
from plasticity_env.common.files import write_text
from plasticity_env.common.progress import Progress
from plasticity_env.common.tracking import Tracker, TrackingOptions, holds_run, new_run_folder, resolve_mode
from plasticity_env.controllers.ann import ANNController
from plasticity_env.controllers.network import HeadNetwork
from plasticity_env.envs.edits import EDITS

AGENTS = ("ppo", "sb3_ppo", "sb3_maskable_ppo", "rllib_ppo")
ENVIRONMENTS = {
    "heads": "plasticity/Heads-v0",
    "head_edit": "plasticity/HeadEdit-v0",
    "head_rank": "plasticity/HeadRank-v0",
}


SIGNAL_SETTINGS = ("obs_signal", "residual_signal", "crossfit_signal")
ARGUMENTS = "config.yaml"  # of a run, in its folder
SETTINGS = (  # arguments that an environment takes under the same name
    *("dataset", "dataset_config", "mode", "reward", "horizon", "train_steps", "train_streams", "grow_warmup_steps"),
    *("growth_init", *SIGNAL_SETTINGS, "repair", "max_sparsity", "min_heads_per_layer", "units"),
    *("mlp_blocks", "neuron_order", "calibration_blocks", "reward_blocks", "batch_size", "max_length"),
)
RESUMED = ("agent", "env", "model_name", *SETTINGS, "flop_price", "train_rate", *RankConfig.__dataclass_fields__)


@dataclass(frozen=True)
class TrainConfig:
    """Arguments of a training run."""

    agent: str = "ppo"
    """ppo (our own), sb3_ppo, sb3_maskable_ppo or rllib_ppo (Ray)"""
    env: str = "heads"
    """heads (all heads at once), head_edit (one edit a step) or head_rank (a score for every head)"""
    model_name: str = "bard-gpt2-4x4"
    """language models to train on, separated by commas: embedded names, folders, GGUF files or hub names"""
    dataset: str = "shakespeare"
    """text: shakespeare, a path, or a hub data set"""
    dataset_config: str | None = None
    """configuration of a hub data set"""
    mode: str = "adaptive"
    """adaptive (prune, revive, grow) or compressed (prune for good); HeadRank: or both, separated by a comma"""
    reward: str = "ppl_per_flop"
    """name in the reward registry"""
    flop_price: tuple[float, float] = (1.0, 16.0)
    """range of FLOP prices, sampled log-uniformly at each reset"""
    horizon: int = 4
    """decisions an episode; HeadRank has --rounds"""
    train_steps: int = 0
    """fine-tuning steps of the language model between decisions"""
    train_rate: float = 3e-4
    """learning rate of those steps"""
    train_streams: int = 4
    """fixed streams of training text, each with its control arm, that episodes draw from"""
    grow_warmup_steps: int = 20
    """fine-tuning steps until a grown head's gate is 1"""
    growth_init: str = "random"
    """what a grown head starts from: random, copy or transfer"""
    obs_signal: bool = True
    """whether observations include the OBS score"""
    residual_signal: bool = True
    """whether observations include the residual scores"""
    crossfit_signal: bool = True
    """whether these include the cross-fitted ones"""
    repair: str = "least_squares"
    """none, bias, scale, least_squares, sequential or sequential_mlp; their controls end in _unweighted"""
    units: str = "heads"
    """what can be pruned: heads or heads+mlp"""
    mlp_blocks: int = 8
    """equal blocks of neurons in each MLP, with --units heads+mlp"""
    neuron_order: str = "stored"
    """order of a layer's neurons before they are cut: stored, token_fisher or kfac (dearest first)"""
    max_sparsity: float = 0.9
    """largest share of heads (of units) that may be pruned"""
    min_heads_per_layer: int = 0
    """fewest active heads of a layer"""
    calibration_blocks: int = 8
    """blocks that score and repair"""
    reward_blocks: int = 8
    """blocks that pay"""
    batch_size: int = 8
    """sequences in one pass"""
    max_length: int = 128
    """tokens a block"""
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
        if self.envs_per_model < 1:
            raise InputError(f"envs_per_model must be at least 1, got {self.envs_per_model}")
        if self.num_env_runners < 0:
            raise InputError(f"num_env_runners must be at least 0, got {self.num_env_runners}")
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
        elif self.train_steps:
            raise InputError(
                f"train_steps {self.train_steps} needs --env heads or head_edit: HeadRank trains on frozen models"
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
        off = set() if self.residual_signal else {"crossfit_signal"}
        return [name for name in SIGNAL_SETTINGS if getattr(self, name) and name not in off]

    def environment_kwargs(self, model: str) -> dict[str, Any]:
        """Keyword arguments of the environment over one of the models."""
        values = {name: getattr(self, name) for name in SETTINGS}
        values.update(
            model_name=model, device=self.ppo.device, flop_price=list(self.flop_price), learning_rate=self.train_rate
        )
        if self.env == "head_rank":
            values.update(
                mode=modes_of(self.mode)[0], horizon=max(self.rank.round_numbers), pruned_share=list(self.rank.shares)
            )
        return values

    def to_json(self) -> dict[str, Any]:
        """Resolved arguments, JSON-able."""
        data = asdict(self)
        data["output_dir"] = None if self.output_dir is None else str(self.output_dir)
        data["flop_price"] = list(self.flop_price)
        return data


def make_environments(config: TrainConfig) -> list[gym.Env[Any, Any]]:
    """Build the environments of a run; those over one frozen model share its weights and memo."""
    envs: list[gym.Env[Any, Any]] = []
    for model in words(config.model_name):
        if config.env == "head_rank":
            envs += _ranking_environments(config, model)
            continue
        first = gym.make(ENVIRONMENTS[config.env], **config.environment_kwargs(model))
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
        return [gym.make(ENVIRONMENTS["head_rank"], **config.environment_kwargs(model))]
    first: dict[int, Any] = {}
    envs: list[gym.Env[Any, Any]] = []
    for index in range(config.envs_per_model):
        turn = index % len(turns)
        if turn in first:
            env: Any = first[turn].unwrapped.fork()
        else:
            first[turn] = env = gym.make(
                ENVIRONMENTS["head_rank"], **{**config.environment_kwargs(model), **turns[turn]}
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
    resolved = config.to_json()
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
            {"models": words(config.model_name), "env": config.env, "mode": config.mode, "repair": config.repair}
        )
        controller.info["signals"] = config.signals()
        if config.units != "heads":
            controller.info |= {
                "units": config.units,
                "mlp_blocks": config.mlp_blocks,
                "neuron_order": config.neuron_order,
            }
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
    data = config.to_json()
    check_arguments((config.output_dir or Path()) / ARGUMENTS, data | data["rank"], RESUMED)


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
    return Stage(models, config.environment_kwargs(models[0]), config.rank, modes_of(config.mode))


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
    low, high = config.rank.shares if what == "pruned_share" else config.flop_price
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
