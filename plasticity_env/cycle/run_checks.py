"""What a run asks for before anything is written: settings, a decider, a model and a text that fit, a free folder."""

from __future__ import annotations

from pathlib import Path

from plasticity_env.common.digests import check_digest
from plasticity_env.common.errors import InputError
from plasticity_env.common.files import LOCK
from plasticity_env.cycle.deciders import Decider, StrategyDecider
from plasticity_env.cycle.record import CONFIG, RunRecord
from plasticity_env.cycle.run_settings import CONTROLLER, REVIVE, ExperimentSettings
from plasticity_env.data.text import SPLITS, TextSplits
from plasticity_env.growth.initial_weights import find_initial_weights
from plasticity_env.model.loading import LoadedModel, check_positions

SETTINGS_DIGEST = "settings_digest"  # entry of a run's config.json: what its settings were when it began


def settings_of(folder: str | Path) -> ExperimentSettings:
    """The settings that a run was started with.

    Raises:
        InputError: No run there, one of something else, or settings that are not those that it began with.
    """
    record = RunRecord.read(folder)
    config = record.config
    found = config.get("settings")
    if not isinstance(found, dict):
        raise InputError(f"{str(folder)!r} holds a run, but not of this experiment: give the folder of one")
    settings = ExperimentSettings.from_json(found)
    check_digest(found, config.get(SETTINGS_DIGEST), record.folder / CONFIG)
    return settings


def strategy_decider(settings: ExperimentSettings) -> Decider:
    """The decider of the settings' pruning strategy.

    Raises:
        InputError: The strategy is a controller, which somebody has to make.
    """
    if settings.pruning_strategy == CONTROLLER:
        raise InputError(
            "pruning_strategy 'controller' needs a decider: give the experiment a ControllerDecider "
            "(plasticity_env.agents.cycle_cli.deciding.decider_for makes one of the settings)"
        )
    return StrategyDecider(settings.pruning_strategy, settings.prune_entropy)


def check_run(loaded: LoadedModel, text: TextSplits, settings: ExperimentSettings) -> None:
    """Refuse a model or text that would only fail after the folder exists.

    Raises:
        InputError: Other MLP blocks, another pruning mode, initial weights that do not fit the architecture, a split without
            text, or blocks too long for the model.
    """
    if loaded.model.mlp_blocks != settings.mlp_blocks:
        raise InputError(
            f"the model was loaded with mlp_blocks={loaded.model.mlp_blocks} and the settings say {settings.mlp_blocks}: "
            "load it with as many"
        )
    if loaded.model.mode != settings.pruning_mode:
        raise InputError(
            f"the model is in {loaded.model.mode} mode and the settings say {settings.pruning_mode}: load it with that mode"
        )
    if settings.adaptive and settings.growth_init != REVIVE:
        find_initial_weights(settings.growth_init).check(loaded.model)
    for split in SPLITS:
        text.blocks(split)
    check_positions(loaded, settings.max_length)


def refuse_used(folder: Path) -> None:
    """Raise an `InputError` where a folder holds something already."""
    if folder.exists() and (not folder.is_dir() or any(path.name != LOCK for path in folder.iterdir())):
        raise InputError(
            f"{str(folder)!r} exists already and is not an empty folder: choose another one, or resume the run in it"
        )
