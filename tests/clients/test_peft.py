"""PEFT: LoRA on a wrapped model trains, survives pruning and revival, saves, loads, merges; on a compacted one too."""

from __future__ import annotations

import ast
import re

import pytest
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from plasticity_env import load_model, mean_loss
from tests.clients.conftest import one_head

peft = pytest.importorskip("peft", reason="PEFT is not installed: make clients installs it")
TARGETS = {"gpt2": ["c_attn"], "llama": ["q_proj", "v_proj", "o_proj"]}


def adapted(model, **arguments):
    return peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=4, **arguments))


def train(model, blocks, folder):
    data = [{"input_ids": row, "labels": row} for row in blocks]
    settings = TrainingArguments(
        str(folder), max_steps=5, per_device_train_batch_size=2, learning_rate=1e-2, report_to=[], use_cpu=True,
        disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    Trainer(model=model, args=settings, train_dataset=data).train()
    model.eval()


@torch.no_grad()
def logits(model, blocks):
    return model(input_ids=blocks).logits


@pytest.fixture
def targets(loaded):
    return TARGETS[loaded.model.config.model_type]


def test_lora_trains_and_survives_pruning_and_revival(loaded, blocks, targets, tmp_path):
    model = loaded.model
    lora = adapted(model, target_modules=targets)
    before = mean_loss(model, blocks)
    weight = model.blocks[0].output_slice(1).data.clone()
    train(lora, blocks, tmp_path)
    assert mean_loss(model, blocks) < before - 0.05
    trained = logits(lora, blocks)
    model.prune(one_head(model))
    assert not torch.equal(logits(lora, blocks), trained)
    model.revive(one_head(model))
    assert torch.equal(logits(lora, blocks), trained)
    assert torch.equal(model.blocks[0].output_slice(1).data, weight)
    assert lora.generate(input_ids=blocks[:1, :8], max_new_tokens=4).shape[1] > 8


@pytest.mark.filterwarnings("error:Found missing adapter keys")
@pytest.mark.parametrize("inner", [False, True])
def test_adapters_save_load_and_merge(loaded, blocks, targets, tmp_path, inner):
    """Around the wrapper, or around the Hugging Face model in it: then the adapters' names are a stock model's."""
    model = loaded.model
    lora = adapted(model.model if inner else model, target_modules=targets)
    train(lora, blocks, tmp_path)
    trained = logits(lora, blocks)
    lora.save_pretrained(tmp_path / "adapter")
    other = load_model(
        f"bard-{model.config.model_type}-" + ("4x4" if model.config.model_type == "gpt2" else "4x8")
    ).model
    base = other.model if inner else other
    again = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    assert torch.equal(logits(again, blocks), trained)
    model.prune(one_head(model))
    masked = logits(lora, blocks)
    merged = lora.merge_and_unload()
    torch.testing.assert_close(logits(merged, blocks), masked, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(logits(model.compact(), blocks), masked, rtol=1e-3, atol=1e-3)


def test_a_compacted_models_readme_names_targets_that_peft_takes(loaded, blocks, tmp_path):
    model = loaded.model
    mask = one_head(model)
    mask[1] = True  # a whole layer: what is left of its output projection is no projection
    model.prune(mask)
    model.compact().save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text()
    arguments = {
        name: ast.literal_eval(re.search(rf"{name}=(\[.*?\])", text).group(1))
        for name in ("target_modules", "exclude_modules")
    }
    loaded_again = AutoModelForCausalLM.from_pretrained(tmp_path)
    before = logits(loaded_again, blocks)
    torch.testing.assert_close(before, logits(model, blocks), rtol=1e-4, atol=1e-4)
    lora = adapted(loaded_again, **arguments)
    train(lora, blocks, tmp_path / "trained")
    assert not torch.equal(logits(lora, blocks), before)
