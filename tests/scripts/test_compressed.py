"""Compressed mode from the command line down to a folder that loads: fewer parameters, the same logits.

Slow: whole runs of scripts.
"""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from plasticity_env import embedded_models, load_model, load_plastic

pytestmark = pytest.mark.slow
MODEL = "bard-gpt2-4x4"
SIZES = ("--max_length", 32, "--cycles", 1, "--sample_tokens", 0, "--no_tensorboard")


@torch.no_grad()
def check(folder, masked):
    """A compacted model on disk computes what the masked one does, with fewer parameters than the dense one."""
    assert MODEL in embedded_models()
    dense = load_model(MODEL)
    ids = dense.tokenizer("To be, or not to be, that is the question", return_tensors="pt").input_ids
    small = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in dense.model.model.parameters())
    assert torch.allclose(small(ids).logits, masked(input_ids=ids).logits, atol=1e-4)
    assert small.generate(ids, max_new_tokens=4, do_sample=False).shape[1] == ids.shape[1] + 4


def test_adaptive(tmp_path, run_here):
    """The network decides; heads and blocks of neurons go."""
    done = run_here(
        "adaptive_neural_plasticity.py",
        *("--quick_test", "--pruning_mode", "compressed", "--pruning_level", 0.25, *SIZES, "--output_dir", "run"),
    )
    assert done.returncode == 0, done.stderr
    masked = load_plastic(tmp_path / "run" / "pruned_model").model
    assert not bool(masked.active[:, masked.heads :].all())
    check(tmp_path / "run" / "models" / "compact", masked)


def test_cycle(tmp_path, run_here):
    done = run_here(
        "neural_plasticity_cycle.py",
        *("--quick_test", "--pruning_mode", "compressed", "--initial_pruning", 0.25, "--warmup_steps", 2, *SIZES),
        *("--model_name", MODEL, "--mlp_blocks", 0, "--training_steps", 2, "--output_dir", "run"),
    )
    assert done.returncode == 0, done.stderr
    masked = load_plastic(tmp_path / "run" / "models" / "final").model
    assert int((~masked.active).sum()) == 4
    check(tmp_path / "run" / "models" / "compact", masked)


def test_train(tmp_path, run_here):
    """A controller that was trained in compressed mode prunes what is exported."""
    done = run_here(
        "train_controller.py",
        *(
            "--mode",
            "compressed",
            "--total_timesteps",
            16,
            "--reward_blocks",
            4,
            "--envs_per_model",
            2,
            "--num_steps",
            4,
        ),
        *("--num_minibatches", 2, "--max_length", 32, "--calibration_blocks", 4, "--model_name", MODEL),
        *("--output_dir", "trained"),
    )
    assert done.returncode == 0, done.stderr
    for form in ("masked", "compact"):
        done = run_here(
            "export_model.py",
            *("--strategy", "trained/controller", "--pruning_level", 0.25, "--format", form, "--output_path", form),
            *("--max_length", 32, "--calibration_blocks", 4, "--test_blocks", 2, "--model_name", MODEL),
        )
        assert done.returncode == 0, done.stderr
    check(tmp_path / "compact", AutoModelForCausalLM.from_pretrained(tmp_path / "masked").eval())
