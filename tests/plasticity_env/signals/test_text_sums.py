"""Sums of a text: prices as the measured signal has them, and texts that add up."""

from __future__ import annotations

import pytest
import torch

from plasticity_env import InputError, PlasticModel
from plasticity_env.signals.text_sums import gather_sums
from plasticity_env.strategies.pruning import ScoreStrategy, measure_for
from tests.conftest import build


def test_prices_are_the_measured_signal(ids: torch.Tensor) -> None:
    for name in ("gpt2", "llama"):
        model = PlasticModel(build(name).double(), mlp_blocks=2)
        found = gather_sums(model, ids, batch_size=2).prices(model)
        signals = measure_for(model, ScoreStrategy("residual_stepwise"), ids, 2)
        assert signals is not None
        assert torch.allclose(found.float(), signals["residual_stepwise"], rtol=1e-3)
        assert gather_sums(model, ids, batch_size=2).loss == pytest.approx(len(ids) * float(signals.loss))


def test_texts_add_up_and_weights_cancel(ids: torch.Tensor) -> None:
    model = PlasticModel(build("llama").double())
    parts = [gather_sums(model, part) for part in ids.split(2)]
    whole, joined = gather_sums(model, ids), parts[0] + parts[1]
    assert joined.tokens == whole.tokens
    assert joined.loss == pytest.approx(whole.loss)
    assert torch.allclose(joined.prices(model), whole.prices(model), rtol=1e-4)
    assert torch.allclose((joined * 0.25).prices(model), whole.prices(model), rtol=1e-4)
    moments = whole.statistics.sites[0]
    assert torch.allclose(moments.gram, joined.statistics.sites[0].gram, rtol=1e-5)
    forward = gather_sums(model, ids, gradients=False)
    assert torch.allclose(forward.statistics.sites[0].gram, moments.gram, rtol=1e-5)
    with pytest.raises(InputError, match="gradients=True"):
        forward.prices(model)
    both = forward + whole  # moments of twice the text, gradients of one
    assert both.graded == whole.graded
    assert both.tokens == 2 * whole.tokens
    assert torch.allclose(both.prices(model), whole.prices(model), rtol=1e-4)


def test_sampled_tokens_give_other_prices_of_the_same_text(ids: torch.Tensor) -> None:
    model = PlasticModel(build("llama").double())
    own, drawn = gather_sums(model, ids), gather_sums(model, ids, sampled=True)
    assert own.loss == drawn.loss
    assert float((own.prices(model) / drawn.prices(model)).log().abs().max()) > 0.01
    with pytest.raises(InputError, match="tokens >= 2"):
        gather_sums(model, ids[:, :1])
