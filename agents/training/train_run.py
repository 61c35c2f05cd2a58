"""One training run: environments, an agent, tracking, and a folder that holds everything it made."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import yaml

from plasticity_env.agents.ppo.checkpoint import check_arguments
from plasticity_env.agents.ppo.ppo import Metrics
from plasticity_env.agents.ppo.price_shares import price_shares
from plasticity_env.agents.ppo.scenario_env import RelativeRise
from plasticity_env.agents.training.agent import AGENTS, find_agent
from plasticity_env.agents.training.shown_episodes import ShownEpisodes, first_of_models, play_shown, scenario_of
from plasticity_env.agents.training.train_config import TrainConfig
from plasticity_env.agents.training.training_envs import make_environments
from plasticity_env.common.arguments import nested, plain
from plasticity_env.common.at_work import at_work_in
from plasticity_env.common.cli import words
from plasticity_env.common.errors import InputError
from plasticity_env.common.files import write_text
from plasticity_env.common.progress import Progress
from plasticity_env.common.tracking import Tracker, holds_run, new_run_folder
from plasticity_env.controllers.ann import ANNController
from plasticity_env.envs.settings import UNIT_ARGUMENTS

ARGUMENTS = "config.yaml"  # of a run, in its folder
RESUMED = ("agent", "env", "model_name", "mode")  # and the environment's arguments, and what is ranked
SHOWN = ("episode/ppl", "episode/flops_kept", "episode/return")  # beside the progress bar


def train(config: TrainConfig) -> Path:
    """Train a controller and write everything into a run folder.

    Args:
        config: Arguments.

    Returns:
        The folder: ``config.yaml``, the files of a `Tracker`, ``controller/``, ``checkpoint.pt``.

    Raises:
        InputError: Arguments that cannot be used, before anything is written, or another process is at work in the folder.
    """
    with at_work_in(config.output_dir):
        config = _as_begun(config)
        _check_folder(config)
        return _train(config)


def _train(config: TrainConfig) -> Path:
    envs = make_environments(config)
    if isinstance(envs[0], RelativeRise):
        envs[0].let_rule_act()
    learner = find_agent(config.agent).learner(config, envs)
    folder = config.output_dir or new_run_folder(f"train_{config.agent}")
    folder.mkdir(parents=True, exist_ok=True)
    resolved = plain(config)
    write_text(folder / ARGUMENTS, yaml.safe_dump(resolved, sort_keys=False))
    with (
        Tracker(folder, resolved, config.tracking, resume=config.resume, program="train") as tracker,
        Progress("training", config.ppo.total_timesteps, start=learner.start) as progress,
    ):
        if config.resume:
            tracker.rewind(learner.start)
        shown = ShownEpisodes(config, envs, tracker, learner.start)

        def report(step: int, metrics: Metrics) -> None:
            tracker.log(metrics, step)
            beside = {key.partition("/")[2]: metrics[key] for key in SHOWN if key in metrics}
            progress.update(min(step, config.ppo.total_timesteps), **beside)
            shown.look(step, learner.now)

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
            pairs = price_shares(config.stage(), controller, config.ppo.seed)
            controller.info["price_shares"] = [list(pair) for pair in pairs]
        controller.save(folder / "controller")
        tracker.artifact("controller", folder / "controller")
        tracker.table("decisions", *decisions(controller, envs, config, shown))
    return folder


def _as_begun(config: TrainConfig) -> TrainConfig:
    """Arguments of a run that goes on, which reads its text as it began to: from the front before there was a choice."""
    path = (config.output_dir or Path()) / ARGUMENTS
    if not config.resume or not path.is_file() or "text_split:" in path.read_text(encoding="utf-8", errors="replace"):
        return config
    order = "stored" if config.settings.neuron_order == "auto" else config.settings.neuron_order
    return replace(config, settings=replace(config.settings, text_split="leading", neuron_order=order))


def _check_folder(config: TrainConfig) -> None:
    """Refuse a folder that holds another run, or none to go on with, before anything is loaded."""
    agent, folder = find_agent(config.agent), config.output_dir
    if not config.resume:
        if folder is not None and holds_run(folder):
            raise InputError(f"{str(folder)!r} holds a run already: choose another --output_dir, or --resume")
        return
    check_resumed(config)
    if agent.checkpoint is None:
        able = " and ".join(other.name for other in AGENTS.values() if other.checkpoint is not None)
        raise InputError(
            f"--resume is for the agents {able}: {agent.name} keeps no checkpoint and starts from the beginning"
        )
    if not agent.can_resume(folder):
        raise InputError(
            f"no checkpoint in {str(folder)!r} to resume from: leave --resume out to start, in another folder where "
            "this one holds a run"
        )


def check_resumed(config: TrainConfig) -> None:
    """Refuse to go on with the run of another agent, or on other environments.

    Raises:
        InputError: An argument that must stay differs from the folder's; a folder that does not hold them is taken at its word.
    """
    names = (*RESUMED, *nested(config)["settings"], *nested(config)["rank"])
    check_arguments((config.output_dir or Path()) / ARGUMENTS, config, names)


def decisions(
    controller: ANNController, envs: list[gym.Env[Any, Any]], config: TrainConfig, shown: ShownEpisodes
) -> tuple[list[str], list[list[Any]]]:
    """Play an episode per model at the lowest, middle and highest price (share, on HeadRank); list each edit and its result.

    The middle one is the last that the run shows.
    """
    what, (low, high) = scenario_of(config)
    columns = ["model", what, "step", "edit", "layer", "head", "ppl", "flops_kept"]
    rows: list[list[Any]] = []
    for base in first_of_models(envs):
        for value in sorted({low, math.sqrt(low * high), high}):
            steps, made = play_shown(controller, base, {what: value})
            for number, edits in enumerate(made, 1):
                result = [steps[number].numbers[name] for name in ("ppl", "flops_kept")]
                rows += [[base.workbench.name, value, number, *edit, *result] for edit in edits]
            if value == math.sqrt(low * high):
                shown.write(base, steps, shown.end, f"{what} {value:.3g}")
    return columns, rows
