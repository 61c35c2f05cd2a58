"""Small settings and a pruned model for the tests of other libraries; `make clients` runs them in an environment of their own."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_raylet_start_wait_time_s", "300")  # Ray gives up after 60 seconds on a busy machine

import pytest
import torch

from plasticity_env import LoadedModel, load_model, load_text


def one_head(model) -> torch.Tensor:
    """A mask of one head."""
    mask = torch.zeros(model.shape, dtype=torch.bool)
    mask[0, 1] = True
    return mask


@pytest.fixture(params=["bard-gpt2-4x4", "bard-llama-4x8"])
def loaded(request) -> LoadedModel:
    """A model of each of two architectures."""
    return load_model(request.param)


@pytest.fixture
def blocks(loaded) -> torch.Tensor:
    """(8, 32) token ids."""
    return load_text("shakespeare", loaded.tokenizer, block_size=32).blocks("calibration")[:8]
