"""From settings to a workbench: the model and the text, loaded and checked against each other."""

from __future__ import annotations

from plasticity_env.common.errors import InputError
from plasticity_env.common.plugins import check_plugins
from plasticity_env.common.values import brief, user_path
from plasticity_env.data.text import TextSplits
from plasticity_env.envs.measurement import Reading
from plasticity_env.envs.rewards import find_reward
from plasticity_env.envs.settings import Settings
from plasticity_env.envs.sharing import ALONE, Sharing
from plasticity_env.envs.workbench import Workbench
from plasticity_env.model.loading import LoadedModel, check_tokenizer, load_model
from plasticity_env.signals.moment_files import MomentFiles
from plasticity_env.strategies.neuron_order import order_neurons


def make_workbench(
    settings: Settings, loaded: LoadedModel | None, text: TextSplits | None, sharing: Sharing = ALONE
) -> Workbench:
    """Load what is not given, and put it onto a workbench.

    Args:
        settings: Settings of the environment.
        loaded: A model to use instead of ``settings.model_name``.
        text: Text to use instead of ``settings.dataset``.
        sharing: How many masks it serves, and what these may take.

    Raises:
        InputError: Nothing of that name, or model, text and settings do not fit each other.
    """
    check_plugins()
    if loaded is not None and not isinstance(loaded, LoadedModel):
        raise InputError(f"loaded must be what load_model returns, got {brief(loaded)}")
    if text is not None and not isinstance(text, TextSplits):
        raise InputError(f"text must be what load_text returns, got {brief(text)}")
    loaded, text = load_model_and_text(settings, loaded, text)
    _check_sizes(settings, loaded, text)
    if settings.blocks_of_neurons:
        order_neurons(loaded.model, text, settings.neuron_order, settings.batch_size)
        if settings.neuron_order not in ("auto", loaded.model.neuron_order):
            raise InputError(
                f"the model's neurons are in the order {loaded.model.neuron_order!r}, the environment wants "
                f"{settings.neuron_order!r}: set neuron_order={loaded.model.neuron_order!r}, or load the model again"
            )
    return Workbench(
        loaded,
        text,
        repair=settings.repair,
        obs=settings.obs_signal,
        batch_size=settings.batch_size,
        want_kl=find_reward(settings.reward).needs_kl,
        want_latency=find_reward(settings.reward).needs_latency,
        residual=settings.residual_signal,
        crossfit=settings.crossfit_signal,
        reading=Reading(
            apart=settings.moment_blocks > 0,
            sampled=settings.labels == "sampled",
            files=_files(settings, loaded),
        ),
        signals=settings.signals,
        prefix_bytes=0 if settings.train_steps or sharing.masks > 1 else settings.prefix_mb * 2**20,
        sharing=sharing,
    )


def _files(settings: Settings, loaded: LoadedModel) -> MomentFiles | None:
    """The files that keep moments; None while weights change."""
    if settings.moment_cache is None or settings.train_steps:
        return None
    return MomentFiles(user_path(settings.moment_cache, "moment_cache"), loaded.model)


def load_model_and_text(
    settings: Settings, loaded: LoadedModel | None = None, text: TextSplits | None = None
) -> tuple[LoadedModel, TextSplits]:
    """The model and the text that settings name, as far as they are not given.

    Raises:
        InputError: Nothing of that name.
    """
    if loaded is None:
        loaded = load_model(settings.model_name, device=settings.device, mlp_blocks=settings.blocks_of_neurons)
    return loaded, settings.load(loaded.tokenizer) if text is None else text


def _check_sizes(settings: Settings, loaded: LoadedModel, text: TextSplits) -> None:
    if loaded.tokenizer is not None:  # a checkpoint may come without one, and its text with ids
        check_tokenizer(loaded.tokenizer, loaded.model.model, loaded.name)
    longest = getattr(loaded.model.config, "max_position_embeddings", None)
    if longest is not None and text.block_size > longest:
        raise InputError(f"max_length {text.block_size} exceeds the {longest} positions of {loaded.name!r}")
    asked = {"calibration": ("calibration_blocks", "moment_blocks"), "reward": ("reward_blocks",)}
    for split, names in asked.items():
        there, counts = len(text.blocks(split)), {name: getattr(settings, name) for name in names}  # type: ignore[arg-type]
        if sum(counts.values()) > there:
            said = " and ".join(f"{name} {count}" for name, count in counts.items() if count)
            raise InputError(
                f"{said} {'is' if ' and ' not in said else 'are'} more than the {there} blocks of {text.block_size} tokens in "
                f"the {split} split of {text.name!r}: ask for fewer or use a longer text"
            )
    if loaded.model.mlp_blocks != settings.blocks_of_neurons:
        raise InputError(
            f"the model was wrapped with mlp_blocks={loaded.model.mlp_blocks}, the environment wants "
            f"{settings.blocks_of_neurons} (units={settings.units!r}): load it with load_model(..., mlp_blocks=...)"
        )
    if settings.min_heads_per_layer > loaded.model.heads:
        raise InputError(
            f"min_heads_per_layer {settings.min_heads_per_layer} exceeds the {loaded.model.heads} heads per layer"
        )
