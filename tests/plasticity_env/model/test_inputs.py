"""Padding counts nowhere: every entrance that measures agrees with the unpadded text, left, right and whole rows."""

from __future__ import annotations

import gymnasium as gym
import pytest
import torch

from plasticity_env import (
    InputError,
    PlasticModel,
    attention_maps,
    calculate_head_entropy,
    calculate_head_gradients,
    evaluate_model,
    generate_pruning_mask,
    grow_attention_heads_gradually,
    load_model,
    mean_loss,
    measure,
    train_with_plasticity,
)
from plasticity_env.data.batches import TokenBatch
from plasticity_env.repair.sequential import repair_in_order
from plasticity_env.repair.whole import repair_model
from plasticity_env.signals.measure import gather
from plasticity_env.training import Distillation, PlasticityTrainer, get_plasticity_optimizer
from tests.conftest import build

TEXT, PAD = 12, 5


def padded(ids, side):
    """The ids with padding on one side, and a last row that is nothing else."""
    filler, text = torch.zeros(len(ids), PAD, dtype=torch.long), torch.ones_like(ids)
    parts = [(ids, text), (filler, filler)] if side == "right" else [(filler, filler), (ids, text)]
    wide, mask = (torch.cat([part[i] for part in parts], 1) for i in (0, 1))
    empty = torch.zeros(1, TEXT + PAD, dtype=torch.long)
    return torch.cat([wide, empty]), torch.cat([mask, empty])


@pytest.fixture
def model(architecture):
    return PlasticModel(build(architecture))


@pytest.mark.parametrize("side", ["left", "right"])
def test_every_entrance_reads_padded_text_as_unpadded(model, ids, side):
    wide, mask = padded(ids, side)
    plain, found = measure(model, ids), measure(model, wide, attention_mask=mask)
    assert found.loss == pytest.approx(plain.loss, abs=1e-5)
    assert found.sequence_loss.tolist() == pytest.approx(plain.sequence_loss.tolist(), abs=1e-5)  # no row of loss 0
    for name in ("fisher", "gradient", "entropy", "activation", "fluctuation", "obs"):
        right = getattr(plain, name)
        torch.testing.assert_close(getattr(found, name), right, rtol=1e-3, atol=1e-5 * float(right.abs().max() + 1))
    batch = {"input_ids": wide, "attention_mask": mask}
    right, also = evaluate_model(model, [ids]), evaluate_model(model, [batch])
    assert also["loss"] == pytest.approx(right["loss"], abs=1e-5)
    assert (also["tokens"], also["sequences"]) == (right["tokens"], right["sequences"])
    losses = []
    for text in (TokenBatch(ids), TokenBatch(wide, mask)):
        distillation = Distillation.from_dense(model, weight=0.5)
        with torch.no_grad():
            for row in distillation.teacher.parameters():
                row.mul_(0.7)  # so that there is a divergence to compare
        trainer = PlasticityTrainer(model, get_plasticity_optimizer(model), distillation=distillation)
        with torch.no_grad():
            nats, away = trainer._losses(text)
            losses.append([float(part) for part in (nats, *away.values())])
    assert len(losses[0]) == 2  # the text's, and that of the teacher
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_text_that_is_all_padding_is_refused(ids):
    model = PlasticModel(build("llama"))
    with pytest.raises(InputError, match="no token to predict"):
        measure(model, ids, attention_mask=torch.zeros_like(ids))
    with pytest.raises(InputError, match="attention_mask must have the shape of input_ids"):
        measure(model, ids, attention_mask=torch.ones(1, 3))


ENTRANCES = {
    "measure": measure,
    "mean_loss": mean_loss,
    "gather": gather,
    "evaluate_model": evaluate_model,
    "calculate_head_entropy": calculate_head_entropy,
    "calculate_head_gradients": calculate_head_gradients,
    "generate_pruning_mask": lambda model, ids: generate_pruning_mask(model, 0.2, data=ids),
    "attention_maps": attention_maps,
    "repair_model": lambda model, ids: repair_model(model, "least_squares", ids),
    "repair_in_order": repair_in_order,
    "train_with_plasticity": lambda model, ids: train_with_plasticity(model, ids, 1),
    "grow": lambda model, ids: grow_attention_heads_gradually(model, 0.1, input_ids=ids),
}


@pytest.mark.parametrize("read", ENTRANCES.values(), ids=ENTRANCES)
def test_ids_without_a_row_or_a_position_are_refused(read):
    model = load_model("bard-gpt2-4x4").model
    mask = torch.zeros(model.shape, dtype=torch.bool)
    mask[0, 1] = True
    model.prune(mask)
    with pytest.raises(InputError, match=r"token ids must lie in \[0, \d+\).*got 5000"):
        read(model, torch.full((1, 8), 5000))
    with pytest.raises(InputError, match=r"600 tokens are more than the model's \d+ positions"):
        read(model, torch.full((1, 600), 5))
    with pytest.raises(InputError, match=r"input_ids must be a tensor of token ids, one at least, got float32"):
        read(model, torch.zeros(1, 8))
    for shape in ((0, 8), (1, 1, 8)):
        with pytest.raises(InputError, match=r"must be"):
            read(model, torch.zeros(shape, dtype=torch.long))
    if read is not attention_maps:
        for shape in ((8,), (2, 1)):
            with pytest.raises(InputError, match=r"must be"):
                read(model, torch.zeros(shape, dtype=torch.long))


def test_a_tokenizer_that_does_not_fit_is_refused_where_it_enters(tmp_path):
    loaded = load_model("bard-gpt2-4x4")
    loaded.model.model.save_pretrained(tmp_path / "none")
    with pytest.raises(InputError, match="holds no tokenizer"):
        load_model(tmp_path / "none")
    loaded.tokenizer.add_tokens(["<|user|>", "<|assistant|>"])
    with pytest.raises(InputError, match=r"has \d+ tokens, the model's embedding \d+ rows"):
        gym.make("plasticity/Heads-v1", loaded=loaded, max_length=32)
    loaded.model.model.save_pretrained(tmp_path / "added")
    loaded.tokenizer.save_pretrained(tmp_path / "added")
    with pytest.raises(InputError, match=r"has \d+ tokens, the model's embedding \d+ rows"):
        load_model(tmp_path / "added")
