"""A pruned model's state_dict is the model that was measured; what goes on from it, Trainer too, goes on to the bit."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainerCallback, TrainingArguments

from plasticity_env import InputError, PlasticModel
from plasticity_env.model.guards import raw_state
from plasticity_env.model.state_dicts import PREFIX
from tests.conftest import build

ARCHITECTURES = ["gpt2", "llama"]  # tied, fused and transposed; grouped keys and values
IDS = torch.randint(1, 128, (16, 10), generator=torch.Generator().manual_seed(1))
STEPS, CUT = 6, 3


def logits(model):
    model.eval()
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


def mask_of(model, *units):
    mask = torch.zeros(model.shape, dtype=torch.bool)
    for unit in units:
        mask[unit] = True
    return mask


def lived(architecture, mlp_blocks=0):
    """A model with two heads pruned (one whole KV group of Llama's), and one that grows."""
    model = PlasticModel(build(architecture), mlp_blocks=mlp_blocks)
    model.prune(mask_of(model, (0, 0), (0, 1), (1, 2)))
    model.grow(mask_of(model, (1, 2)), initial_scale=0.25, warmup_steps=4, generator=torch.Generator().manual_seed(0))
    model.advance_warmup()
    if mlp_blocks:
        model.prune(mask_of(model, (0, 5)))
    return model


def equal(state, other):
    assert state.keys() == other.keys()
    return all(torch.equal(value, other[name]) for name, value in state.items())


@pytest.mark.parametrize("mlp_blocks", [0, 4])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_file_of_it_is_the_measured_model_and_brings_everything_back(architecture, mlp_blocks, tmp_path):
    model = lived(architecture, mlp_blocks)
    save_file(model.state_dict(), tmp_path / "it.safetensors")  # refuses tied weights that share memory
    read = load_file(tmp_path / "it.safetensors")
    stock = build(architecture, seed=1)
    assert not stock.load_state_dict(read, strict=False).missing_keys
    torch.testing.assert_close(logits(stock), logits(model), rtol=1e-4, atol=1e-4)
    again = PlasticModel(build(architecture, seed=1), mlp_blocks=mlp_blocks)
    again.load_state_dict(read)
    assert torch.equal(logits(again), logits(model))
    for this in (model, again):
        this.advance_warmup(2)
    assert torch.equal(logits(again), logits(model))
    for this in (model, again):
        this.revive(~this.active)
    assert torch.equal(logits(again), logits(model))
    assert equal(again.state_dict(), model.state_dict())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_model_inside_gives_no_file_of_dense_weights(architecture, tmp_path):
    model = PlasticModel(build(architecture))
    inside = [model.model, model.model.base_model]
    whole = [set(part.state_dict()) for part in inside]
    model.prune(mask_of(model, (0, 0), (1, 2)))
    for part, names in zip(inside, whole, strict=True):
        with pytest.raises(InputError, match=r"would be the dense model: take the wrapper's state_dict\(\)"):
            torch.save(part.state_dict(), tmp_path / "weights.pt")
        assert set(part.state_dict(keep_vars=True)) == names
    around = torch.nn.ModuleList([model.model])
    assert {name.removeprefix("0.") for name in around.state_dict()} == whole[0]
    model.revive(~model.active)
    assert [set(part.state_dict()) for part in inside] == whole
    model.prune(mask_of(model, (0, 0)))
    model.let_go()
    assert set(model.model.state_dict()) == whole[0]


def test_a_dense_models_has_stock_names_and_brings_no_mask():
    model = PlasticModel(build("gpt2"))
    assert model.state_dict().keys() == model.model.state_dict().keys()
    pruned = lived("gpt2")
    pruned.load_state_dict(model.state_dict())
    assert not pruned.active.all()
    pruned.revive(~pruned.active)
    assert equal(raw_state(pruned.model), raw_state(model.model))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"active": torch.ones(2, 6, dtype=torch.bool)}, "its mask is"),
        ({"active": torch.zeros(2, 4, dtype=torch.bool)}, "one active head at least"),
        ({"scale": torch.full((2, 4), torch.nan)}, "its scales"),
        ({"rows.0.0": torch.zeros(3, 64)}, "the weights of a unit have another size"),
        ({"rows.0.1": None}, "rows.0.1"),
        ({"saved.unit.0.0.0": None}, "does not fit"),
    ],
)
def test_a_mask_of_another_model_is_refused_and_nothing_changes(change, said):
    state, model = lived("gpt2").state_dict(), PlasticModel(build("gpt2", seed=1))
    for name, value in change.items():
        state.pop(PREFIX + name)
        if value is not None:
            state[PREFIX + name] = value
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError, match=said):
        model.load_state_dict(state, strict=False)
    assert equal(model.state_dict(), before)


def test_biases_of_a_repair_are_refused_with_the_way_out():
    model = lived("llama")
    model.apply_repair(0, None, torch.ones(64))
    with pytest.raises(InputError, match="save_plastic"):
        PlasticModel(build("llama")).load_state_dict(model.state_dict(), strict=False)


class Interrupt(TrainerCallback):
    """Ends a run in the middle, with a checkpoint."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = control.should_training_stop = state.global_step >= CUT


def train(model, folder, *callbacks, resume=None):
    settings = TrainingArguments(
        str(folder), max_steps=STEPS, per_device_train_batch_size=4, learning_rate=1e-2, weight_decay=0.1, report_to=[],
        use_cpu=True, disable_tqdm=True, save_strategy="steps", save_steps=100, logging_strategy="no",
    )  # fmt: skip
    data = [{"input_ids": row, "labels": row} for row in IDS]
    Trainer(model=model, args=settings, train_dataset=data, callbacks=[*callbacks]).train(resume_from_checkpoint=resume)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_trainer_goes_on_from_its_checkpoint_to_the_bit(architecture, tmp_path):
    whole, cut, rest = lived(architecture), lived(architecture), PlasticModel(build(architecture, seed=1))
    untrained = logits(whole)
    train(whole, tmp_path / "whole")
    train(cut, tmp_path / "cut", Interrupt())
    stock = build(architecture, seed=1)
    stock.load_state_dict(load_file(tmp_path / "cut" / f"checkpoint-{CUT}" / "model.safetensors"), strict=False)
    torch.testing.assert_close(logits(stock), logits(cut), rtol=1e-4, atol=1e-4)
    train(rest, tmp_path / "cut", resume=True)  # a dense model with other weights: the mask comes from the checkpoint
    assert torch.equal(rest.active, whole.active)
    assert equal(rest.state_dict(), whole.state_dict())
    assert torch.equal(logits(rest), logits(whole))
    assert not torch.equal(logits(rest), untrained)
    for model in (rest, whole):
        model.revive(~model.active)
    assert torch.equal(logits(rest), logits(whole))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_trainer_on_the_model_inside_goes_on_too(architecture, tmp_path):
    models = []
    for _ in range(3):
        model = PlasticModel(build(architecture))
        model.prune(mask_of(model, (0, 0), (0, 1), (1, 2)))
        models.append(model)
    whole, cut, rest = models
    train(whole.model, tmp_path / "whole")
    train(cut.model, tmp_path / "cut", Interrupt())
    train(rest.model, tmp_path / "cut", resume=True)
    assert torch.equal(logits(rest), logits(whole))
    stock = type(rest.model).from_pretrained(tmp_path / "cut" / f"checkpoint-{STEPS}")
    torch.testing.assert_close(logits(stock), logits(rest), rtol=1e-4, atol=1e-4)
    for model in (rest, whole):
        model.revive(~model.active)
    assert torch.equal(logits(rest), logits(whole))
