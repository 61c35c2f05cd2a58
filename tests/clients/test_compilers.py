"""``torch.compile`` and ``torch.export``: masked and compacted models, over pruning and revival, equal eager to 1e-4."""

from __future__ import annotations

import shutil

import pytest
import torch

from tests.clients.conftest import one_head

NO_COMPILER = pytest.mark.skipif(
    not shutil.which("g++"), reason="torch's inductor needs a C++ compiler: apt-get install g++"
)


def exported(model, ids):
    return torch.export.export(model, (ids,), {"use_cache": False}).module()


@torch.no_grad()
def assert_same(transformed, model, ids):
    torch.testing.assert_close(transformed(ids, use_cache=False).logits, model(ids).logits, rtol=1e-4, atol=1e-4)


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", ["eager", "aot_eager", pytest.param("inductor", marks=NO_COMPILER)])
def test_one_compiled_model_follows_pruning_and_revival(loaded, blocks, backend):
    model = loaded.model
    fast = torch.compile(model, backend=backend)
    assert_same(fast, model, blocks)
    dense = model(blocks).logits.detach()
    model.prune(one_head(model))
    assert not torch.allclose(model(blocks).logits, dense, atol=1e-2)
    assert_same(fast, model, blocks)
    assert_same(torch.compile(model.compact(), backend=backend), model, blocks)
    model.revive(one_head(model))
    assert_same(fast, model, blocks)


def test_exported_programs_equal_the_model_as_it_was(loaded, blocks):
    model = loaded.model
    assert_same(exported(model, blocks), model, blocks)
    model.prune(one_head(model))
    pruned = exported(model, blocks)
    assert_same(pruned, model, blocks)
    assert_same(exported(model.compact(), blocks), model, blocks)
    model.revive(one_head(model))
    assert_same(exported(model, blocks), model, blocks)
