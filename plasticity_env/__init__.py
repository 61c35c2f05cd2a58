"""A Gymnasium environment over a transformer language model: prune, revive and grow heads, paid in perplexity per FLOP.

>>> import gymnasium as gym
>>> import plasticity_env
>>> env = gym.make("plasticity/Heads-v1", model_name="bard-gpt2-4x4")
"""

import os as _os

import gymnasium as _gym
import torch as _torch

from plasticity_env.common.errors import InputError
from plasticity_env.common.metrics_logger import MetricsLogger
from plasticity_env.common.plugins import load_plugins as _load_plugins
from plasticity_env.cycle import ExperimentSettings, NeuralPlasticityExperiment, RunRecord
from plasticity_env.data.text import TextSplits, load_text
from plasticity_env.envs.edits import EDITS, GROW, KEEP, PRUNE, REVIVE
from plasticity_env.envs.observation import GLOBAL_FEATURES, HEAD_FEATURES
from plasticity_env.envs.replay import EpisodeRecord, validate
from plasticity_env.envs.rewards import RewardRule, register_reward, reward_names
from plasticity_env.functional.functions import (
    apply_pruning_mask,
    calculate_head_entropy,
    calculate_head_gradients,
    generate_pruning_mask,
)
from plasticity_env.functional.loop import run_plasticity_loop, train_with_plasticity
from plasticity_env.functional.pruning_module import PruningModule
from plasticity_env.growth import GrowthResult, UNetSkip, WarmupSchedule, grow_attention_heads_gradually
from plasticity_env.model.attention_maps import attention_maps
from plasticity_env.model.checkpoints import load_plastic, save_plastic
from plasticity_env.model.compact import register_all as _register_compact_models
from plasticity_env.model.flops import flop_table, flops, kv_cache_bytes
from plasticity_env.model.layout_table import Layout, register_layout
from plasticity_env.model.loading import LoadedModel, embedded_models, load_model, model_card
from plasticity_env.model.modes import PruningMode
from plasticity_env.model.plastic_model import PlasticModel
from plasticity_env.plots.tensor_image import safe_tensor_imshow
from plasticity_env.plots.visualize import (
    visualize_attention_patterns,
    visualize_head_entropy,
    visualize_head_gradients,
    visualize_pruning_decisions,
    visualize_training_metrics,
)
from plasticity_env.signals.measure import HeadSignals, mean_loss, measure
from plasticity_env.signals.scores import Score, register_score
from plasticity_env.signals.signal import Signal, register_signal
from plasticity_env.signals.text_loss import evaluate_model
from plasticity_env.training import (
    Distillation,
    HeadLRManager,
    PlasticityTrainer,
    create_plasticity_trainer,
    get_plasticity_optimizer,
)

__version__ = "0.1.0"

# A forked worker (AsyncVectorEnv) inherits an OpenMP pool whose threads are gone, and would wait for them for ever; one
# thread a worker needs no pool, and is what several workers on one machine want.
if hasattr(_os, "register_at_fork"):
    _os.register_at_fork(after_in_child=lambda: _torch.set_num_threads(1))

_register_compact_models()  # AutoModelForCausalLM.from_pretrained loads them from here on
for _version in (0, 1):
    for _kind, _file, _vector in (
        ("Heads", "heads:HeadsEnv", "vector:HeadsVectorEnv"),
        ("HeadEdit", "head_edit:HeadEditEnv", None),
        ("HeadRank", "head_rank:HeadRankEnv", "rank_vector:HeadRankVectorEnv"),
    ):
        _gym.register(
            id=f"plasticity/{_kind}-v{_version}",
            entry_point=f"plasticity_env.envs.{_file}",
            vector_entry_point=_vector and f"plasticity_env.envs.{_vector}",
            kwargs={"version": _version},
        )

__all__ = [
    "EDITS",
    "GLOBAL_FEATURES",
    "GROW",
    "HEAD_FEATURES",
    "KEEP",
    "PRUNE",
    "REVIVE",
    "Distillation",
    "EpisodeRecord",
    "ExperimentSettings",
    "GrowthResult",
    "HeadLRManager",
    "HeadSignals",
    "InputError",
    "Layout",
    "LoadedModel",
    "MetricsLogger",
    "NeuralPlasticityExperiment",
    "PlasticModel",
    "PlasticityTrainer",
    "PruningMode",
    "PruningModule",
    "RewardRule",
    "RunRecord",
    "Score",
    "Signal",
    "TextSplits",
    "UNetSkip",
    "WarmupSchedule",
    "apply_pruning_mask",
    "attention_maps",
    "calculate_head_entropy",
    "calculate_head_gradients",
    "create_plasticity_trainer",
    "embedded_models",
    "evaluate_model",
    "flop_table",
    "flops",
    "generate_pruning_mask",
    "get_plasticity_optimizer",
    "grow_attention_heads_gradually",
    "kv_cache_bytes",
    "load_model",
    "load_plastic",
    "load_text",
    "mean_loss",
    "measure",
    "model_card",
    "register_layout",
    "register_reward",
    "register_score",
    "register_signal",
    "reward_names",
    "run_plasticity_loop",
    "safe_tensor_imshow",
    "save_plastic",
    "train_with_plasticity",
    "validate",
    "visualize_attention_patterns",
    "visualize_head_entropy",
    "visualize_head_gradients",
    "visualize_pruning_decisions",
    "visualize_training_metrics",
]

_load_plugins()
