"""What transformers' own tools do with a pruned model: pipelines, Trainer, saving, adapters around its projections."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_model
from torch import nn
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments, pipeline

from plasticity_env import load_model, load_text, mean_loss
from plasticity_env.common.errors import InputError
from plasticity_env.model.guards import raw_state


@pytest.fixture
def loaded():
    """A small model with a head pruned."""
    found = load_model("bard-gpt2-4x4")
    mask = torch.zeros(found.model.shape, dtype=torch.bool)
    mask[0, 1] = True
    found.model.prune(mask)
    return found


@pytest.fixture
def ids(loaded):
    return load_text("shakespeare", loaded.tokenizer, block_size=32).blocks("calibration")[:8]


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids).logits


def test_the_wrapper_passes_for_the_model(loaded, ids, tmp_path):
    model = loaded.model
    assert model.can_generate()
    assert model.generation_config is model.model.generation_config
    assert model.get_input_embeddings() is model.model.get_input_embeddings()
    assert torch.equal(model(ids).logits, logits(model.model, ids))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = model.no_such_name
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(tmp_path), ids), logits(model, ids))
    save_model(model, tmp_path / "whole.safetensors")
    assert {"lm_head.weight", "transformer.h.0.attn.c_attn.weight"} <= set(load_file(tmp_path / "whole.safetensors"))


def test_a_pipeline_generates_what_the_model_generates(loaded):
    said = pipeline("text-generation", model=loaded.model, tokenizer=loaded.tokenizer)(
        "To be", max_new_tokens=6, do_sample=False
    )
    prompt = loaded.tokenizer("To be", return_tensors="pt")
    expected = loaded.model.generate(**prompt, max_new_tokens=6, do_sample=False)
    assert said[0]["generated_text"] == loaded.tokenizer.decode(expected[0], skip_special_tokens=True)


def train(model, ids, folder, **arguments):
    data = [{"input_ids": row, "labels": row} for row in ids]
    settings = TrainingArguments(
        str(folder), max_steps=5, per_device_train_batch_size=2, learning_rate=1e-3, report_to=[], use_cpu=True,
        disable_tqdm=True, **arguments,
    )  # fmt: skip
    Trainer(model=model, args=settings, train_dataset=data).train()


def test_trainer_trains_the_wrapper(loaded, ids, tmp_path):
    before = mean_loss(loaded.model, ids)
    train(loaded.model, ids, tmp_path, save_strategy="no")
    assert mean_loss(loaded.model, ids) < before - 0.05


def test_trainer_on_the_wrapped_model_writes_the_masked_weights(loaded, ids, tmp_path):
    train(loaded.model.model, ids, tmp_path, save_steps=5)
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-5")
    torch.testing.assert_close(logits(written, ids), logits(loaded.model, ids))
    width = loaded.model.blocks[0].head_dim
    assert not written.transformer.h[0].attn.c_proj.weight[width : 2 * width].any()


class Adapter(nn.Module):
    """What PEFT puts around a projection: the projection as ``base_layer``, and a change of low rank."""

    def __init__(self, base: nn.Module, inputs: int, outputs: int) -> None:
        super().__init__()
        self.base_layer = base
        self.down, self.up = nn.Linear(inputs, 2, bias=False), nn.Linear(2, outputs, bias=False)

    @property
    def weight(self) -> torch.Tensor:
        return self.base_layer.weight

    @property
    def bias(self) -> torch.Tensor:
        return self.base_layer.bias

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.base_layer(hidden) + self.up(self.down(hidden))


def test_adapters_survive_pruning_and_revival(ids):
    model = load_model("bard-gpt2-4x4").model
    for layer in model.model.transformer.h:
        layer.attn.c_attn = Adapter(layer.attn.c_attn, 128, 384)
    mask = torch.zeros(model.shape, dtype=torch.bool)
    mask[0, 1] = True
    before = logits(model, ids)
    model.prune(mask)
    pruned = logits(model, ids)
    assert not torch.equal(pruned, before)
    with pytest.raises(InputError, match="adapters lie around"):
        model.save_pretrained("nowhere")
    with pytest.raises(InputError, match="merge adapters"):
        model.compact()
    model.revive(mask)
    assert torch.equal(logits(model, ids), before)


def test_a_module_around_the_wrapper_saves_and_loads_under_its_modules_names(loaded, ids):
    around = nn.ModuleDict({"base": loaded.model})
    weights = {name: value.clone() for name, value in around.state_dict().items()}
    assert {name for name, _ in around.named_parameters()} <= set(weights)
    assert set(loaded.model.state_dict()) >= set(raw_state(loaded.model.model))
    before = logits(loaded.model, ids)
    with torch.no_grad():
        loaded.model.model.transformer.wte.weight.mul_(1.1)
    assert not torch.equal(logits(loaded.model, ids), before)
    around.load_state_dict(weights)
    assert torch.equal(logits(loaded.model, ids), before)
