"""Small random models of every architecture, and small environments over an embedded model."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")

from collections.abc import Callable, Iterator
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


_EDGES: dict[str, Any] = {"pad_token_id": None, "bos_token_id": 0, "eos_token_id": 0}
MORE: dict[str, Any] = {**GQA, **_EDGES}
EXPERTS: dict[str, Any] = {**MORE, "num_experts_per_tok": 2}  # of two: another choice of experts would be a jump
_FALCON: dict[str, Any] = {**BASE, **_EDGES, "ffn_hidden_size": 128}
OTHERS: dict[str, Callable[[], Any]] = {
    "cohere": lambda: tf.CohereConfig(**MORE, use_qk_norm=True),
    "exaone4": lambda: tf.Exaone4Config(**MORE, sliding_window=6, sliding_window_pattern=2),
    "falcon": lambda: tf.FalconConfig(**_FALCON, num_kv_heads=2, new_decoder_architecture=True, bias=True),
    "falcon_alibi": lambda: tf.FalconConfig(
        **_FALCON, multi_query=False, new_decoder_architecture=False, alibi=True, parallel_attn=False
    ),
    "falcon_multi_query": lambda: tf.FalconConfig(**_FALCON, multi_query=True, new_decoder_architecture=False),
    "gemma": lambda: tf.GemmaConfig(**MORE, head_dim=16),
    "gemma2": lambda: tf.Gemma2Config(
        **MORE, head_dim=16, sliding_window=6, attn_logit_softcapping=2.0, query_pre_attn_scalar=16
    ),
    "glm4": lambda: tf.Glm4Config(**MORE, head_dim=16),
    "gpt_oss": lambda: tf.GptOssConfig(**EXPERTS, head_dim=16, num_local_experts=2, sliding_window=6),
    "granite": lambda: tf.GraniteConfig(
        **MORE, residual_multiplier=0.4, attention_multiplier=0.2, embedding_multiplier=2.0, logits_scaling=0.5
    ),
    "mixtral": lambda: tf.MixtralConfig(**EXPERTS, num_local_experts=2),
    "olmo": lambda: tf.OlmoConfig(**MORE, clip_qkv=30.0),
    "olmo2": lambda: tf.Olmo2Config(**MORE),
    "phi3": lambda: tf.Phi3Config(**MORE, sliding_window=6),
    "qwen2_moe": lambda: tf.Qwen2MoeConfig(
        **EXPERTS, num_experts=2, moe_intermediate_size=32, shared_expert_intermediate_size=48
    ),
    "qwen3_moe": lambda: tf.Qwen3MoeConfig(
        **EXPERTS, head_dim=16, num_experts=2, moe_intermediate_size=32, mlp_only_layers=[]
    ),
    "smollm3": lambda: tf.SmolLM3Config(**MORE, no_rope_layers=[1, 0]),
    "stablelm": lambda: tf.StableLmConfig(**MORE),
    "stablelm_norms": lambda: tf.StableLmConfig(
        **MORE, qk_layernorm=True, use_parallel_residual=True, use_qkv_bias=True
    ),
    "starcoder2": lambda: tf.Starcoder2Config(**MORE, sliding_window=6),
}
"""Whole matrices of tests run these when slow tests are asked for; ``test_architectures.py`` holds each at every run."""
OWN_KERNEL = ("falcon", "falcon_alibi", "falcon_multi_query", "gpt_oss")
"""Attention is computed by another kernel than the stock model's: the same but for rounding."""
HEADS_ONLY = ("gpt_oss", "mixtral", "qwen2_moe", "qwen3_moe")
ALIBI = ("falcon_alibi",)  # its stock eager attention adds the biases twice: its patterns are no oracle
EVERY = [*sorted(CONFIGS), *(pytest.param(name, marks=pytest.mark.slow) for name in sorted(OTHERS))]


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    """Some programs compute on one thread; what a test compares must not depend on which ran before it in this process."""
    before = torch.get_num_threads()
    yield
    if torch.get_num_threads() != before:
        torch.set_num_threads(before)


def but(*left_out: str) -> pytest.MarkDecorator:
    """Parametrise a test by every architecture but some."""
    return pytest.mark.parametrize(
        "architecture", [name for name in EVERY if getattr(name, "values", [name])[0] not in left_out]
    )


def build(architecture: str, seed: int = 0) -> Any:
    """A random causal LM with weights large enough for its attention to be far from uniform."""
    torch.manual_seed(seed)
    config = {**CONFIGS, **OTHERS}[architecture]()
    model = tf.AutoModelForCausalLM.from_config(config).eval()
    if architecture in HEADS_ONLY:
        model.set_experts_implementation("eager")  # the grouped kernel knows no float64
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "sinks" in name:
                parameter.normal_(std=2.0)
            elif "norm" in name and architecture in OTHERS:
                parameter.add_(0.2 * torch.randn(parameter.shape))
            elif parameter.ndim in (2, 3) and not any(part in name for part in ("embed", "wte")):
                parameter.mul_(4.0)
            elif parameter.ndim == 1 and name.endswith("bias"):
                parameter.normal_(std=0.05)
    return model


def same(architecture: str, ours: torch.Tensor, stock: torch.Tensor) -> bool:
    """Whether two results are the same: to the bit where the kernel is the stock model's."""
    if architecture in OWN_KERNEL:
        return torch.allclose(ours, stock, rtol=1e-4, atol=1e-5 * float(stock.abs().max()))
    return torch.equal(ours, stock)


@torch.no_grad()
def stock_attentions(architecture: str, ids: torch.Tensor) -> torch.Tensor:
    """What the stock model says that its heads attend to, (B, L, H, T, T), less than 1 in a row where a sink takes the rest."""
    model = build(architecture)
    if architecture.startswith("falcon"):
        model.config._attn_implementation = "eager"  # which its set_attn_implementation does not do
    else:
        model.set_attn_implementation("eager")
    return torch.stack(model(ids, output_attentions=True).attentions, 1)


@pytest.fixture(params=EVERY)
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
