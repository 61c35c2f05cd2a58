"""ONNX: masked and compacted models run under onnxruntime, on batches and lengths other than those of the export."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.clients.conftest import one_head

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: make clients installs it")
pytest.importorskip("onnxscript", reason="onnxscript is not installed: make clients installs it")


class Logits(nn.Module):
    """Token ids to logits, without a cache."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids, use_cache=False).logits


@pytest.mark.parametrize("compact", [True, False])
def test_onnxruntime_computes_the_models_logits(loaded, blocks, compact, tmp_path):
    model = loaded.model
    model.prune(one_head(model))
    shapes = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=128)},)
    torch.onnx.export(
        Logits(model.compact() if compact else model).eval(), (blocks[:2],), tmp_path / "model.onnx", dynamo=True,
        input_names=["input_ids"], output_names=["logits"], dynamic_shapes=shapes, verbose=False,
    )  # fmt: skip
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for ids in (blocks[:2], blocks[2:5, :20]):
        (found,) = session.run(["logits"], {"input_ids": ids.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(found), model(ids).logits, rtol=1e-4, atol=1e-4)
