"""Moments of calibration texts: what is kept, how exactly, and what goes."""

from __future__ import annotations

import pytest
import torch

from plasticity_env import PlasticModel
from plasticity_env.signals.dense_moments import DenseMoments
from plasticity_env.signals.measure import gather
from tests.conftest import build


@pytest.mark.parametrize("packed", [False, True])
def test_what_is_kept_is_what_was_gathered(packed, ids):
    """Of the dense stream, whatever the model carries; packed to float32."""
    model = PlasticModel(build("llama"), mlp_blocks=4)
    expected = [gather(model, ids[:2]), gather(model, ids[1:])]
    model.prune(torch.tensor([[True] + [False] * 7, [False] * 8]))
    moments = DenseMoments(model, 2, packed)
    texts = torch.stack([ids[:2], ids[1:]])
    for _ in range(2):  # gathered, then kept
        found = moments.of(("first", "second"), texts, 8)
        for index, of in expected[1].sites.items():
            torch.testing.assert_close(found(index).gram[1], of.gram, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(found(index).mean[1], of.mean, rtol=1e-5, atol=1e-6)
    alone = moments.of(("first",), texts[:1], 8)
    for index, of in expected[0].sites.items():
        torch.testing.assert_close(alone(index).gram[0], of.gram, rtol=1e-5, atol=1e-6)


def test_the_oldest_goes_but_for_those_that_stay(ids):
    model = PlasticModel(build("gpt2"))
    moments = DenseMoments(model, 2)

    def read(text):
        moments.of((text,), ids[None], 8)
        return {name for name in "abcd" if moments.knows(name)}

    read("a")
    assert read("b") == {"a", "b"}
    read("a")
    assert read("c") == {"a", "c"}
    moments.keep_only(("a", "c"))
    assert read("d") == {"a", "c"}  # there is no room
    moments.keep_only(("c",))
    assert read("d") == {"c", "d"}
    model.weights_changed()
    assert not moments.knows("c")
