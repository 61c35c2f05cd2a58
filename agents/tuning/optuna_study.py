"""An Optuna study over PPO's arguments: every trial is a short training, and lagging ones are ended early."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from plasticity_env.agents.ppo.ppo import Metrics
from plasticity_env.agents.training.agent import find_agent
from plasticity_env.agents.training.train_config import TrainConfig
from plasticity_env.agents.training.training_envs import make_environments
from plasticity_env.agents.tuning.study_config import StudyConfig
from plasticity_env.agents.tuning.study_picture import study_png
from plasticity_env.common.arguments import fill
from plasticity_env.common.at_work import at_work_in
from plasticity_env.common.errors import InputError, first_line
from plasticity_env.common.files import write_text
from plasticity_env.common.packages import require

if TYPE_CHECKING:
    import optuna

GOAL = "episode/return"
LAST = 0.25  # share of a training's reports, the last ones, whose mean is the trial's value
PATIENCE = 5.0  # seconds that a locked storage is waited for
STORAGE, BEST, PICTURE = "study.db", "best.yaml", "study.png"


def tune(config: StudyConfig) -> str:
    """Run the trials that are missing, and write the best arguments and a picture.

    Args:
        config: Arguments.

    Returns:
        A line that says what was found.

    Raises:
        InputError: Arguments that cannot be used, a storage of something else or one that is locked, another process at work in
            the folder, or Optuna is not installed.
    """
    require("optuna", "tune")
    base = base_training(config)
    with at_work_in(config.output_dir), _storage_said(config.output_dir / STORAGE):
        study = open_study(config)
        left = config.trials - finished(study)
        if left > 0:
            study.optimize(lambda trial: objective(trial, base, config), n_trials=left)
        return _report(study, config)


def base_training(config: StudyConfig) -> TrainConfig:
    """What the trainings of all trials share.

    Raises:
        InputError: A file that is not the arguments of a training.
    """
    own = {"agent": config.agent, "env": config.env, "total_timesteps": config.total_timesteps, "seed": config.seed}
    values: dict[str, Any] = {}
    if config.train is not None:
        try:
            values = dict(yaml.safe_load(config.train.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
            raise InputError(
                f"{str(config.train)!r} is not the YAML file of a training ({first_line(error)})"
            ) from error
    return fill(TrainConfig(), {**values, **own}, str(config.train or "the arguments"))


def open_study(config: StudyConfig) -> optuna.Study:
    """The study in the folder, a new one where there is none; trials that a kill cut off count as failed.

    Raises:
        InputError: If it is a study of another agent, environment or length.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    config.output_dir.mkdir(parents=True, exist_ok=True)
    url, options = f"sqlite:///{(config.output_dir / STORAGE).absolute()}", {"connect_args": {"timeout": PATIENCE}}
    study = optuna.create_study(
        storage=optuna.storages.RDBStorage(url, engine_kwargs=options),
        study_name="plasticity",
        load_if_exists=True,
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=config.seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=config.warmup_trials, n_warmup_steps=0),
    )
    own = {name: getattr(config, name) for name in ("agent", "env", "total_timesteps", "seed")}
    for name, value in own.items():
        before = study.user_attrs.setdefault(name, value)
        if before != value:
            raise InputError(
                f"the study in {str(config.output_dir)!r} has {name} {before!r}, not {value!r}: give the same, or another "
                "--output_dir"
            )
        study.set_user_attr(name, value)
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def finished(study: optuna.Study) -> int:
    """Trials that were completed or pruned."""
    from optuna.trial import TrialState

    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))


def suggest(trial: Any) -> dict[str, Any]:
    """Arguments of PPO that a trial tries."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 2e-2, log=True),
        "num_steps": trial.suggest_categorical("num_steps", [8, 16, 32]),
        "num_minibatches": trial.suggest_categorical("num_minibatches", [2, 4, 8]),
        "update_epochs": trial.suggest_categorical("update_epochs", [2, 4, 8]),
        "gae_lambda": trial.suggest_float("gae_lambda", 0.8, 1.0),
        "clip_coef": trial.suggest_categorical("clip_coef", [0.1, 0.2, 0.3]),
        "ent_coef": trial.suggest_float("ent_coef", 1e-5, 1e-1, log=True),
        "width": trial.suggest_categorical("width", [32, 64, 128]),
    }


def objective(trial: optuna.Trial, base: TrainConfig, config: StudyConfig) -> float:
    """Train once; the mean return of the last reports, nats.

    Args:
        trial: Suggests arguments, and is told of every update.
        base: What all trials share.
        config: Arguments of the study.

    Raises:
        optuna.TrialPruned: The pruner ended the trial, or the training diverged.
    """
    import optuna

    training = replace(base, ppo=replace(base.ppo, **suggest(trial)))
    returns: list[float] = []

    def report(step: int, metrics: Metrics) -> None:
        if GOAL not in metrics:
            return
        returns.append(float(metrics[GOAL]))
        trial.report(_value(returns), step)
        if trial.should_prune():
            raise optuna.TrialPruned

    envs = make_environments(training)
    folder = Path(tempfile.mkdtemp(prefix="trial_", dir=config.output_dir))
    try:
        find_agent(training.agent).learner(training, envs).learn(folder, report)
    except FloatingPointError as error:
        raise optuna.TrialPruned from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for env in envs:
            env.close()
    if not returns or not np.isfinite(returns[-1]):
        raise optuna.TrialPruned
    return _value(returns)


def _value(returns: list[float]) -> float:
    return float(np.mean(returns[-max(1, round(LAST * len(returns))) :]))


def _report(study: optuna.Study, config: StudyConfig) -> str:
    from optuna.trial import TrialState

    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    pruned = finished(study) - len(complete)
    if not complete:
        return f"{pruned} trials, all of them pruned: give more --total_timesteps, or more --warmup_trials"
    best = {"agent": config.agent, "env": config.env, "ppo": dict(study.best_params)}
    write_text(config.output_dir / BEST, yaml.safe_dump(best, sort_keys=False))
    study_png(study, config.output_dir / PICTURE)
    return (
        f"{len(complete)} trials and {pruned} pruned ones, best return {study.best_value:.4f} nats of trial "
        f"{study.best_trial.number}: {config.output_dir / BEST}"
    )


@contextmanager
def _storage_said(path: Path) -> Iterator[None]:
    """Say in one sentence what SQLite raises."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import DatabaseError

    try:
        yield
    except (DatabaseError, StorageInternalError) as error:
        cause = error.__cause__ or error
        reason = first_line(getattr(cause, "orig", None) or cause)
        raise InputError(
            f"{str(path)!r} cannot be used as the study's storage ({reason}): end what holds it, or name another --output_dir"
        ) from error
