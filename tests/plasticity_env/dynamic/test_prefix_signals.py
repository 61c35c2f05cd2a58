"""Signals of units on the first tokens of each text: those of a measuring pass on that text alone."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from plasticity_env import PlasticModel
from plasticity_env.dynamic import build_bank, measure_routes
from plasticity_env.dynamic.prefix_signals import prefix_signals, signals_flops
from plasticity_env.model.flops import flop_table
from plasticity_env.signals.measure import measure
from tests.conftest import HEADS_ONLY, build


def test_they_are_those_of_a_measuring_pass_on_each_text_alone(architecture: str, ids: torch.Tensor) -> None:
    model = PlasticModel(build(architecture).double(), mlp_blocks=0 if architecture in HEADS_ONLY else 2)
    found = prefix_signals(model, ids, batch_size=2)
    assert found.shape == (len(ids), *model.shape, 3)
    for text, row in zip(ids, found, strict=True):
        alone = measure(model, text[None], obs=False)
        expected = torch.stack([alone.entropy_normalized, alone.activation, alone.fluctuation], -1)
        assert torch.allclose(row, expected, rtol=1e-4, atol=1e-6)


def test_a_table_keeps_them_and_counts_their_flops() -> None:
    model = PlasticModel(build("llama"))
    random = torch.Generator().manual_seed(0)
    texts = {kind: torch.randint(0, 128, (3, 12), generator=random) for kind in ("low", "high")}
    bank = build_bank(model, texts, (0.5,))
    plain, table = (measure_routes(bank, texts, prefix_tokens=6, signals=signals) for signals in (False, True))
    assert plain.signals is None
    assert table.signals is not None
    assert torch.equal(torch.from_numpy(table.signals), prefix_signals(model, torch.cat(list(texts.values()))[:, :6]))
    assert table.reader_flops == plain.reader_flops + signals_flops(model, 6)
    assert table.rows([1, 2]).signals.shape[0] == 2


def test_their_flops_are_one_product_of_attention_and_the_moments_of_the_units() -> None:
    """Moments as torch counts them, which knows no attention kernel, less one product of each unit's weights a call."""
    model = PlasticModel(build("llama"))
    ids = torch.randint(0, 128, (1, 8), generator=torch.Generator().manual_seed(0))
    short, long = signals_flops(model, 8), signals_flops(model, 16)
    heads = model.shape[0] * model.heads
    assert 2 * (long - 2 * short) == 16 * heads * (flop_table(model, 16).head - flop_table(model, 8).head)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model.model(input_ids=ids, use_cache=False)
    with FlopCounterMode(display=False) as counter:
        prefix_signals(model, ids)
    weights = sum(2 * site.output_weight().numel() * site.unit_width for site in model.sites if site.gated)
    moments = counter.get_total_flops() - forward.get_total_flops() - weights
    assert moments == pytest.approx(2 * short - long / 2, rel=0.1)
