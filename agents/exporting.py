"""Prune a model in one go, or take one that was pruned before, and write it as files that others can load."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import torch
from torch import Tensor

from plasticity_env import controllers
from plasticity_env.agents.export_config import ExportConfig
from plasticity_env.common import cli
from plasticity_env.common.arguments import flat
from plasticity_env.common.at_work import at_work_on
from plasticity_env.common.errors import InputError
from plasticity_env.common.files import new_folder, write_text
from plasticity_env.controllers import SCORES, RankedController
from plasticity_env.data.text import TextSplits
from plasticity_env.envs.base import PlasticityEnv
from plasticity_env.envs.make_workbench import load_model_and_text
from plasticity_env.model.checkpoints import is_checkpoint, load_plastic
from plasticity_env.model.loading import LoadedModel, load_model
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.model.stock.stock_configs import check_count
from plasticity_env.model.stock.stock_files import check_export, dense_sizes, prepare_export, write_export
from plasticity_env.model.stock.uniform import group_shapes, uniform_mask

SHAPE_BLOCKS = 16  # of the reward text, that choose between shapes


def export(config: ExportConfig) -> tuple[Path, list[str]]:
    """Write a pruned model.

    Args:
        config: Arguments.

    Returns:
        The folder (weights, configuration, tokenizer, and ``export.json`` which says how it was made), and sentences
        about what was written.

    Raises:
        InputError: Arguments that cannot be used, or a mask that the format cannot say; nothing is left behind.
    """
    path = config.output_path or Path("runs") / f"export_{time.strftime('%Y%m%d_%H%M%S')}"
    with at_work_on(path), new_folder(path) as folder:
        loaded = _open(config)
        said = prune(loaded, config) if config.prunes else []
        model = loaded.model
        exported = prepare_export(model, config.format, getattr(torch, config.dtype))
        write_export(exported, folder, loaded.tokenizer)
        difference = check_export(folder, model)
        said += [
            f"{type(exported.model).__name__}: {exported.parameters:,} parameters, dense {exported.dense_parameters:,}",
            *exported.notes,
            f"loaded back, its logits differ from the pruned model's by {difference:.1g} of their size",
        ]
        card = {
            "command": cli.command(),
            "model": loaded.name,
            "arguments": flat(config),
            "active": model.active.int().tolist(),
            "notes": said,
        }
        write_text(folder / "export.json", json.dumps(card, indent=1))
    return path, said


def _open(config: ExportConfig) -> LoadedModel:
    settings = config.settings
    if is_checkpoint(settings.model_name):
        return load_plastic(settings.model_name, device=settings.device)
    return load_model(settings.model_name, device=settings.device, mlp_blocks=settings.blocks_of_neurons)


def prune(loaded: LoadedModel, config: ExportConfig) -> list[str]:
    """Choose units, prune and repair; the model carries the result.

    Returns:
        Sentences about what it cost.

    Raises:
        InputError: The model is pruned already, has no tokenizer, or cannot be said with so many heads in the format.
    """
    model = loaded.model
    if not bool(model.active.all()):
        raise InputError(f"{loaded.name!r} is pruned already: export it as it is, without --pruning_level")
    if loaded.tokenizer is None:
        raise InputError(
            f"{config.settings.model_name!r} was saved without a tokenizer, which pruning needs: save it with one"
        )
    left = _left_in_each_layer(config, model) if config.format == "uniform" else None
    loaded, text = load_model_and_text(config.settings, loaded)
    env = _environment(config, loaded, text)
    observation, _ = env.reset(seed=config.seed)
    blocks = min(config.test_blocks, len(text.blocks("test")))
    dense = env.evaluate("test", blocks)
    controller = controllers.make(config.strategy, sparsity=config.pruning_level, rounds=config.rounds)
    controller.reset(config.seed)
    said: list[str] = []
    if left is None:
        for _ in range(config.rounds - 1):
            observation = env.step(controller.act(observation))[0]
        active = env.preview(controller.act(observation))
    else:
        assert isinstance(controller, RankedController)
        importance = torch.from_numpy(controller.importance(observation)).view(model.shape)
        active, said = _best_uniform_mask(env, importance, *left)
    after = env.evaluate("test", blocks, active)  # and the model carries this mask and its repair from here on
    kept = env.workbench.flop_table.total(active) / env.dense_flops
    return [
        *said,
        f"{int((~active).sum())} of {active.numel()} {env.settings.units} pruned by {config.strategy}, repair "
        f"{env.settings.repair}: "
        f"{kept:.1%} of the FLOPs, test perplexity {math.exp(min(dense, 700.0)):.2f} -> {math.exp(min(after, 700.0)):.2f} "
        f"({blocks} blocks of {config.settings.max_length} tokens)",
    ]


def _environment(config: ExportConfig, loaded: LoadedModel, text: TextSplits) -> PlasticityEnv:
    settings = replace(
        config.settings,
        horizon=config.rounds,
        max_sparsity=1.0,
        obs_signal=config.strategy not in SCORES or "obs" in SCORES[config.strategy].needs,
        signals=SCORES[config.strategy].signals if config.strategy in SCORES else (),
    )
    made = gym.make("plasticity/Heads-v1", loaded=loaded, text=text, disable_env_checker=True, **settings.kwargs())
    return made.unwrapped  # type: ignore[return-value]


def _left_in_each_layer(config: ExportConfig, model: PlasticModel) -> tuple[int, int]:
    """Heads and MLP blocks that each layer should keep."""
    heads = config.uniform_heads
    if heads is None:
        heads = max(1, round(model.heads * (1 - config.pruning_level)))
    check_count(model.config, dense_sizes(model), heads)
    return heads, max(1, round(model.mlp_blocks * (1 - config.pruning_level)))


def _best_uniform_mask(env: PlasticityEnv, importance: Tensor, heads: int, blocks: int) -> tuple[Tensor, list[str]]:
    """The most important units of each layer, in the shape of KV groups that costs the least on the reward text.

    Args:
        env: An environment that was just reset.
        importance: (L, U), larger = kept longer.
        heads: Heads that each layer keeps.
        blocks: MLP blocks that each layer keeps.

    Returns:
        (L, U) mask, True = kept; a sentence about each shape, where there are several.
    """
    model = env.workbench.model
    of_heads, of_blocks = importance.split([model.heads, model.mlp_blocks], dim=1)
    neurons = uniform_mask(of_blocks, model.mlp_blocks, (blocks, 1)) if model.mlp_blocks else of_blocks.bool()
    shapes = group_shapes(model.heads, model.kv_heads)[heads]
    masks = [torch.cat([uniform_mask(of_heads, model.kv_heads, shape), neurons], dim=1) for shape in shapes]
    if len(masks) == 1:
        return masks[0], []
    losses = [env.evaluate("reward", SHAPE_BLOCKS, mask) for mask in masks]
    said = [
        f"{groups} x {members} heads (KV groups x heads of each) a layer: reward perplexity {math.exp(min(loss, 700.0)):.2f} at "
        f"{env.workbench.flop_table.total(mask) / env.dense_flops:.1%} of the FLOPs"
        for (groups, members), mask, loss in zip(shapes, masks, losses, strict=True)
    ]
    return masks[losses.index(min(losses))], said
