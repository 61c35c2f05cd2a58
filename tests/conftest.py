"""Small random models of every architecture, and small environments over an embedded model."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")

from collections.abc import Callable
from typing import Any, TypeVar

import gymnasium as gym
import pytest
import torch
import transformers as tf

import plasticity_env  # noqa: F401
from plasticity_env import LoadedModel, PlasticModel, TextSplits, load_model, load_text
from plasticity_env.common.arguments import fill

C = TypeVar("C")

BASE: dict[str, Any] = {"vocab_size": 128, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
GQA: dict[str, Any] = {**BASE, "num_key_value_heads": 2, "intermediate_size": 128}
CONFIGS: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: tf.GPT2Config(vocab_size=128, n_embd=64, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0),
    "llama": lambda: tf.LlamaConfig(**GQA),
    "mistral": lambda: tf.MistralConfig(**GQA, sliding_window=6),
    "qwen2": lambda: tf.Qwen2Config(**GQA),
    "qwen3": lambda: tf.Qwen3Config(**GQA, head_dim=24),
    "gpt_neox": lambda: tf.GPTNeoXConfig(**BASE, intermediate_size=128),
    "opt": lambda: tf.OPTConfig(**BASE, ffn_dim=128, word_embed_proj_dim=64),
    "phi": lambda: tf.PhiConfig(**BASE, intermediate_size=128),
    "gemma3": lambda: tf.Gemma3TextConfig(**GQA, head_dim=16, sliding_window=6),
}


def build(architecture: str, seed: int = 0) -> Any:
    """A random causal LM with weights large enough for its attention to be far from uniform."""
    torch.manual_seed(seed)
    config = CONFIGS[architecture]()
    model = tf.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embed" not in name and "wte" not in name:
                parameter.mul_(4.0)
            elif parameter.ndim == 1 and name.endswith("bias"):
                parameter.normal_(std=0.05)
    return model


@pytest.fixture(params=sorted(CONFIGS))
def architecture(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(0, 128, (3, 12), generator=torch.Generator().manual_seed(1))


def filled(arguments: type[C], **values: Any) -> C:
    """A command's arguments, its nested ones among them, as a YAML file without places gives them."""
    return fill(arguments(), values)


SMALL: dict[str, Any] = {
    "model_name": "bard-gpt2-4x4",
    "max_length": 32,
    "calibration_blocks": 4,
    "reward_blocks": 4,
    "horizon": 3,
    "flop_price": 4.0,
}
ALL_SIGNALS: dict[str, Any] = {"obs_signal": True, "residual_signal": True}
"""What environments measure unless told otherwise: three quarters of a step's time."""


@pytest.fixture(scope="session")
def small_text() -> TextSplits:
    """The first 20,000 characters of each split: some 200 blocks that are tokenised in no time (the whole takes ten seconds)."""
    whole = load_text("shakespeare", load_model(SMALL["model_name"]).tokenizer, block_size=SMALL["max_length"])
    texts = {split: text[:20_000] for split, text in whole._texts.items()}
    return TextSplits(whole.name, whole.block_size, whole.tokenizer, texts)


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory, small_text: TextSplits) -> str:
    """Path of a short text, for what takes the name of a data set."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(small_text._texts.values()), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="session")
def narrow_model(small_text: TextSplits) -> Callable[[int], LoadedModel]:
    """Make a random GPT-2 of 4 layers with 4 heads, an eighth as wide as the embedded one, with so many MLP blocks a layer.

    The solves for the neurons of a wide MLP are what takes longest in environments with ``units="heads+mlp"``.
    """

    def make(mlp_blocks: int) -> LoadedModel:
        torch.manual_seed(0)
        sizes = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64}
        config = tf.GPT2Config(vocab_size=len(small_text.tokenizer), bos_token_id=0, eos_token_id=0, **sizes)
        model = tf.AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "wte" not in name and "ln" not in name:
                    parameter.normal_(std=0.05 if parameter.ndim == 1 else 0.3)
        return LoadedModel(PlasticModel(model, mlp_blocks=mlp_blocks), small_text.tokenizer, "narrow")

    return make


@pytest.fixture
def make_env(small_text: TextSplits) -> Callable[..., gym.Env[Any, Any]]:
    """Make a small environment: on the small text, unless it is to read something else, and without `ALL_SIGNALS`."""

    def make(env_id: str = "plasticity/Heads-v1", **kwargs: Any) -> gym.Env[Any, Any]:
        text = {} if kwargs.keys() & {"max_length", "dataset", "text"} else {"text": small_text}
        return gym.make(env_id, **{**SMALL, **dict.fromkeys(ALL_SIGNALS, False), **text, **kwargs})

    return make
