"""Prune a model in one go, or take one that was pruned before, and write it as files that others can load."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import gymnasium as gym
import torch
from torch import Tensor

import controllers
import plasticity_env  # noqa: F401  (registers the environments)
from controllers import SCORES, RankedController
from plasticity_env import cli
from plasticity_env.envs.base import PlasticityEnv
from plasticity_env.errors import InputError, unknown
from plasticity_env.export import check_export, check_format, dense_sizes, prepare_export, write_export
from plasticity_env.files import new_folder, write_text
from plasticity_env.loading import LoadedModel, load_model
from plasticity_env.repair import find_repair
from plasticity_env.stock_configs import check_count
from plasticity_env.text import load_text
from plasticity_env.uniform import best_uniform_mask, group_shapes

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class ExportConfig:
    """Arguments of an export."""

    model_name: str = "bard-gpt2-4x4"
    """an embedded name, a Hugging Face folder, a GGUF file, a hub name, or a checkpoint of a pruned model"""
    format: str = "masked"
    """masked (stock shapes), uniform (stock, smaller, as many heads in each layer) or compact (smallest, needs this package)"""
    output_path: Path | None = None
    """a new folder; unset: one under runs/"""
    pruning_level: float = 0.0
    """share of heads to prune first; 0 exports the model as it is"""
    uniform_heads: int | None = None
    """with --format uniform: heads that each layer keeps, instead of --pruning_level"""
    strategy: str = "fisher"
    """what chooses the heads: fisher, gradient, magnitude, random, ..., or the folder of a saved controller"""
    rounds: int = 1
    """measure, prune and repair in so many rounds"""
    repair: str = "least_squares"
    """how the heads that stay make up for those that go: none, bias, scale, least_squares, ..."""
    dataset: str = "shakespeare"
    """calibration text: shakespeare, a path, or a hub data set"""
    dataset_config: str | None = None
    """configuration of a hub data set"""
    calibration_blocks: int = 32
    """blocks that score and repair"""
    test_blocks: int = 16
    """blocks of the test split that say what pruning cost"""
    max_length: int = 128
    """tokens a block"""
    batch_size: int = 8
    """sequences in one pass"""
    dtype: str = "float32"
    """type of the weights in the file: float32, float16 or bfloat16"""
    seed: int = 0
    """draws the calibration blocks"""
    device: str = "cpu"
    """cpu, cuda, ..."""

    def __post_init__(self) -> None:
        check_format(self.format)
        find_repair(self.repair)
        if self.strategy not in SCORES and not Path(self.strategy).is_dir():
            raise unknown("strategy", self.strategy, SCORES, ", or the folder of a saved controller")
        if self.dtype not in DTYPES:
            raise unknown("dtype", self.dtype, DTYPES)
        if not 0 <= self.pruning_level < 1:
            raise InputError(f"pruning_level must lie in [0, 1), got {self.pruning_level!r}")
        if self.uniform_heads is not None and (self.format != "uniform" or self.pruning_level > 0):
            raise InputError("--uniform_heads is for --format uniform, and stands instead of --pruning_level")
        for name in ("calibration_blocks", "test_blocks", "rounds", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.seed < 0:
            raise InputError(f"seed must be at least 0, got {self.seed}")

    @property
    def prunes(self) -> bool:
        """Whether heads are to be pruned before the export."""
        return self.pruning_level > 0 or self.uniform_heads is not None


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
    with new_folder(path) as folder:
        loaded = load_model(config.model_name, device=config.device)
        said = prune(loaded, config) if config.prunes else []
        model = loaded.model
        exported = prepare_export(model, config.format, DTYPES[config.dtype])
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
            "arguments": {k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items()},
            "active": model.active.int().tolist(),
            "notes": said,
        }
        write_text(folder / "export.json", json.dumps(card, indent=1))
    return path, said


def prune(loaded: LoadedModel, config: ExportConfig) -> list[str]:
    """Choose heads, prune and repair; the model carries the result.

    Returns:
        Sentences about what it cost.

    Raises:
        InputError: The model is pruned already, or the wanted number of heads cannot be said in the format.
    """
    model = loaded.model
    if not bool(model.active.all()):
        raise InputError(f"{loaded.name!r} is pruned already: export it as it is, without --pruning_level")
    count = _heads_per_layer(config, loaded)
    text = load_text(
        config.dataset, loaded.tokenizer, dataset_config=config.dataset_config, block_size=config.max_length
    )
    env: PlasticityEnv = gym.make(
        "plasticity/Heads-v0",
        loaded=loaded,
        text=text,
        disable_env_checker=True,
        horizon=config.rounds,
        max_sparsity=1.0,
        obs_signal=config.strategy not in SCORES or config.strategy == "obs",
        reward_blocks=1,
        **{
            name: getattr(config, name)
            for name in ("repair", "calibration_blocks", "max_length", "batch_size", "device")
        },
    ).unwrapped  # type: ignore[assignment]
    observation, _ = env.reset(seed=config.seed)
    blocks = min(config.test_blocks, len(text.blocks("test")))
    dense = env.evaluate("test", blocks)
    controller = controllers.make(config.strategy, sparsity=config.pruning_level, rounds=config.rounds)
    controller.reset(config.seed)
    if count is None:
        for _ in range(config.rounds - 1):
            observation = env.step(controller.act(observation))[0]
        active = env.preview(controller.act(observation))
    else:
        assert isinstance(controller, RankedController)
        importance = torch.from_numpy(controller.importance(observation)).view(model.shape)
        active = _uniform(importance, model.kv_heads, count)
    after = env.evaluate("test", blocks, active)
    return [
        f"{int((~active).sum())} of {active.numel()} heads pruned by {config.strategy}, repair {config.repair}: test perplexity "
        f"{math.exp(min(dense, 700.0)):.2f} -> {math.exp(min(after, 700.0)):.2f} ({blocks} blocks of {config.max_length})"
    ]


def _heads_per_layer(config: ExportConfig, loaded: LoadedModel) -> int | None:
    """Heads that each layer shall keep; None where layers may differ."""
    if config.format != "uniform":
        return None
    model = loaded.model
    count = config.uniform_heads
    if count is None:
        count = max(1, round(model.heads * (1 - config.pruning_level)))
    check_count(model.config, dense_sizes(model), count)
    return count


def _uniform(importance: Tensor, kv_heads: int, count: int) -> Tensor:
    return best_uniform_mask(importance, kv_heads, group_shapes(importance.shape[1], kv_heads)[count])
