"""The estimates of a removal's cost, against gradients that autograd gives by itself."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from plasticity_env import PlasticModel, measure
from plasticity_env.signals.measure import gather, sequence_losses
from plasticity_env.signals.residual import model_projectors
from plasticity_env.signals.slopes import SCORES, Projector, SlopeSums
from tests.conftest import HEADS_ONLY, build, but


def inputs_and_gradients(model, ids):
    """Of every site: what its projection reads, and the gradient of the sequences' losses in it, both (B, T, I)."""
    seen = {}

    def note(index):
        def hook(module, args):
            args[0].retain_grad()
            seen[index] = args[0]

        return hook

    hooks = [site.output.register_forward_pre_hook(note(index)) for index, site in enumerate(model.sites)]
    sequence_losses(model, ids).sum().backward()
    for hook in hooks:
        hook.remove()
    model.zero_grad()
    shape = (*ids.shape, -1)
    return {index: (rows.detach().view(shape), rows.grad.view(shape)) for index, rows in seen.items()}


@but(*HEADS_ONLY)
@pytest.mark.parametrize("batch_size", [2, 8])
def test_each_estimate_is_what_its_formula_says(architecture, ids, batch_size):
    model = PlasticModel(build(architecture), mlp_blocks=4)
    projectors = model_projectors(model, gather(model, ids))
    found = measure(model, ids, batch_size=batch_size, projectors=projectors)
    for index, (rows, gradient) in inputs_and_gradients(model, ids).items():
        site = model.sites[index]
        units = (*ids.shape, -1, site.unit_width)
        residual, back = (rows @ projectors[index].matrix).view(units), gradient.view(units)
        slopes = (residual * back).sum(3)  # (B, T, u)
        spreads = [torch.einsum("btuv,btuw->uvw", x, x) / ids.numel() for x in (residual, back)]
        expected = {
            "gradient": slopes.sum(1).abs().mean(0),
            "fisher": slopes.sum(1).square().mean(0),
            "token_fisher": slopes.square().sum(1).mean(0),
            "kfac": (spreads[0] * spreads[1]).sum((1, 2)) * ids.shape[1],
        }
        assert {*expected, "stepwise"} == set(SCORES)
        for score, value in expected.items():
            seen = getattr(found, f"residual_{score}")[site.layer, site.columns]
            torch.testing.assert_close(seen, value, rtol=2e-3, atol=1e-10, msg=lambda text: f"{score}: {text}")  # noqa: B023
        kfac, stepwise = (
            getattr(found, f"residual_{score}")[site.layer, site.columns] for score in ("kfac", "stepwise")
        )
        assert int(stepwise.argmin()) == int(kfac.argmin())
        assert float(stepwise.min()) == pytest.approx(float(kfac.min()), rel=1e-5)
        assert float(stepwise.max()) > float(kfac.max()) * 1.001  # the last one has no others left to speak for it


def test_cross_fitted_kfac_reads_each_half_with_what_the_other_teaches(ids):
    model = PlasticModel(build("llama"), mlp_blocks=4)
    ids = torch.cat([ids, ids.flip(1)])[:5]
    halves = [model_projectors(model, gather(model, part)) for part in (ids[:2], ids[2:])]
    found = measure(model, ids, projectors=halves[0], crossfit=(halves[1], halves[0]))
    for index, (rows, gradient) in inputs_and_gradients(model, ids).items():
        site = model.sites[index]
        parts = zip((rows[:2], rows[2:]), halves[::-1], strict=True)
        residual = torch.cat([part @ taught[index].matrix for part, taught in parts])
        x, g = (each.view(*ids.shape, -1, site.unit_width) for each in (residual, gradient))
        spreads = [torch.einsum("btuv,btuw->uvw", each, each) / ids.numel() for each in (x, g)]
        expected = (spreads[0] * spreads[1]).sum((1, 2)) * ids.shape[1]
        torch.testing.assert_close(found.crossfit_kfac[site.layer, site.columns], expected, rtol=2e-3, atol=1e-10)
    alone = measure(model, ids, crossfit=(halves[1], halves[0]))
    torch.testing.assert_close(alone.crossfit_kfac, found.crossfit_kfac, rtol=2e-3, atol=1e-10)


def test_padding_counts_in_none(ids):
    model = PlasticModel(build("llama"))
    projectors = model_projectors(model, gather(model, ids))
    padded = torch.cat([ids, torch.zeros(3, 5, dtype=torch.long)], 1)
    mask = torch.cat([torch.ones(3, 12), torch.zeros(3, 5)], 1).long()
    plain = measure(model, ids, projectors=projectors)
    found = measure(model, padded, attention_mask=mask, projectors=projectors)
    for score in SCORES:
        name = f"residual_{score}"
        torch.testing.assert_close(getattr(found, name), getattr(plain, name), rtol=5e-3, atol=1e-9)


def test_with_independent_tokens_all_agree_and_the_averaged_ones_vary_less():
    draws, tokens, width = 400, 16, 3
    generator = torch.Generator().manual_seed(0)
    rows, back = (torch.randn(draws, tokens, width, generator=generator) for _ in range(2))
    site = SimpleNamespace(index=0, layer=0, kind="attention", columns=slice(0, 1), unit_width=width)
    sums = SlopeSums([site], (1, 1), draws, torch.device("cpu"))
    alone = Projector(torch.eye(width), torch.eye(width, dtype=torch.float64))
    sums.begin({"residual": {0: alone}}, draws, None)
    (sums.tap(site, rows) * back).sum().backward()
    found = {name: value.flatten() for name, value in sums.scores(tokens).items()}
    fisher, token_fisher, kfac = (found[f"residual_{score}"] for score in ("fisher", "token_fisher", "kfac"))
    torch.testing.assert_close(fisher, (rows * back).sum((1, 2)).square())
    assert float(token_fisher.mean()) == pytest.approx(float(fisher.mean()), rel=0.2)
    assert float(kfac.mean()) == pytest.approx(float(fisher.mean()), rel=0.2)
    torch.testing.assert_close(found["residual_stepwise"], kfac)
    spread, of_tokens, of_both = (float(value.std() / value.mean()) for value in (fisher, token_fisher, kfac))
    assert of_both < of_tokens < 0.6 * spread
