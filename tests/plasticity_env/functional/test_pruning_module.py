"""PruningModule and MetricsLogger are thin: what they say is what the functions below them say."""

from __future__ import annotations

import json

import pytest
import torch

from plasticity_env import InputError, MetricsLogger, PruningModule, evaluate_model, load_model
from plasticity_env.common.metrics_logger import curves_of_rows

TEXT = (
    "To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer the slings and arrows. " * 3
)


@pytest.fixture(scope="module")
def module():
    return PruningModule("bard-gpt2-4x4")


def test_zeroed_heads_cost_and_come_back(module):
    assert (module.num_layers, module.num_heads) == (4, 4)
    dense = module.evaluate(TEXT, max_length=32)
    module.zero_heads([(0, 1), (2, 3)])
    assert (~module.model.active).nonzero().tolist() == [[0, 1], [2, 3]]
    pruned = module.evaluate(TEXT, max_length=32)
    assert pruned["active_heads"] == 14
    assert abs(pruned["loss"] - dense["loss"]) > 1e-3
    module.restore_heads([(0, 1)])
    assert int(module.model.active.sum()) == 15
    module.restore_heads()
    assert module.evaluate(TEXT, max_length=32) == dense


def test_it_says_what_the_functions_say(module):
    model, tokenizer, _ = load_model("bard-gpt2-4x4")
    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    assert module.evaluate(TEXT, max_length=10_000)["loss"] == pytest.approx(evaluate_model(model, ids)["loss"])
    blocks = ids[:, : ids.shape[1] // 16 * 16].view(-1, 16)
    assert module.evaluate(TEXT, max_length=16)["loss"] == pytest.approx(evaluate_model(model, blocks)["loss"])
    assert module.generate("To be", 8).startswith("To be")


def test_bad_input(module):
    with pytest.raises(InputError, match="no head 4 in layer 0"):
        module.zero_heads([(0, 4)])
    with pytest.raises(InputError, match="tokens >= 2"):
        module.evaluate("a")
    with pytest.raises(InputError, match="keep at least one head"):
        module.zero_heads(torch.ones(4, 4).bool())
    with pytest.raises(InputError, match="no model at"):
        PruningModule("./nowhere").load()
    compressed = PruningModule("bard-gpt2-4x4", mode="compressed")
    compressed.zero_heads([(1, 1)])
    with pytest.raises(InputError, match="pruning is permanent"):
        compressed.restore_heads()


def test_logged_metrics_come_back_as_curves(tmp_path):
    with MetricsLogger(tmp_path, {"seed": 1}) as logger:
        logger.log({"loss": 2.5, "heads": 3}, step=1)
        logger.log({"loss": 2.0}, step=4)
        assert logger.curves() == {"loss": ([1, 4], [2.5, 2.0]), "heads": ([1], [3.0])}
    assert json.loads((tmp_path / "config.json").read_text()) == {"seed": 1}
    with pytest.raises(InputError, match="holds a run already"):
        MetricsLogger(tmp_path)
    with MetricsLogger(tmp_path, resume=True) as logger:
        logger.log({"loss": 1.0}, step=5)
        assert logger.curves()["loss"] == ([1, 4, 5], [2.5, 2.0, 1.0])


def test_rows_without_a_step_count_by_position():
    rows = [{"loss": 1.0, "arm": "control"}, {"loss": None, "done": True}]
    curves = curves_of_rows(rows)
    assert list(curves) == ["loss"]
    assert curves["loss"][0] == [0, 1]
    assert curves["loss"][1][1] != curves["loss"][1][1]
