"""The measuring pass against independent computations: finite differences, brute force, eager attention."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from plasticity_env import InputError, PlasticModel, measure
from plasticity_env.signals import attention_entropy as entropy
from plasticity_env.signals import recorder
from plasticity_env.signals.batched_model import Projection
from plasticity_env.signals.measure import _drawn, mean_loss, measure_many, text_losses
from plasticity_env.signals.moment_sums import OBS_RIDGE
from tests.conftest import ALIBI, build, but, stock_attentions


def loss_at(model, ids, gates):
    with torch.no_grad(), model.using(gates):
        logits = model.model(ids).logits[:, :-1].double()
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(len(ids), -1).mean(1)


def slope(model, ids, gates, layer, head):
    """Five-point central difference; these norms compute in float32 even in a double model, so its step must not be tiny."""
    names = {type(module).__name__ for module in model.modules()}
    rms = any("RMSNorm" in name or name in ("OlmoLayerNorm", "CohereLayerNorm") for name in names)
    step, sides = 0.02 if rms else 1e-4, []
    for offset in (-2, -1, 1, 2):
        moved = gates.clone()
        moved[layer, head] += offset * step
        sides.append(loss_at(model, ids, moved))
    return (sides[0] - 8 * sides[1] + 8 * sides[2] - sides[3]) / (12 * step)


def test_gate_gradients_equal_central_differences(architecture, ids):
    model = PlasticModel(build(architecture).double())
    signals = measure(model, ids, obs=False)
    numeric = torch.zeros(len(ids), 2, 4, dtype=torch.float64)
    for layer in range(2):
        for head in range(4):
            numeric[:, layer, head] = slope(model, ids, torch.ones(2, 4, dtype=torch.float64), layer, head)
    top = numeric.abs().max()
    assert (signals.gate_gradient - numeric.mean(0)).abs().max() < 1e-3 * top
    assert (signals.gradient - numeric.abs().mean(0)).abs().max() < 1e-3 * top
    assert (signals.fisher - numeric.square().mean(0)).abs().max() < 2e-3 * top**2


def test_no_signal_depends_on_the_batch_size(architecture, ids):
    model = PlasticModel(build(architecture))
    one, all_ = (measure(model, ids, batch_size=size, statistics=True) for size in (1, 3))
    for name in ("fisher", "gradient", "entropy", "entropy_normalized", "activation", "fluctuation", "obs"):
        a, b = getattr(one, name), getattr(all_, name)
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-6), name
    for site, moments in one.statistics.sites.items():
        assert torch.allclose(moments.gram, all_.statistics.sites[site].gram, rtol=1e-3, atol=1e-6)
    assert one.loss == pytest.approx(all_.loss, rel=1e-5)


@but(*ALIBI)
def test_entropy_equals_that_of_eager_attention(architecture, ids):
    attentions = stock_attentions(architecture, ids).transpose(0, 1).double()  # (L, B, H, T, T)
    if architecture == "gpt_oss":
        attentions = torch.cat([attentions, 1 - attentions.sum(-1, keepdim=True)], -1)  # the sink is a key as well
    entropy = -torch.special.xlogy(attentions, attentions).sum(-1)
    visible = (attentions[:, :1, :1] > 0).sum(-1).double()  # sliding windows see fewer keys
    counted = (visible > 1).expand_as(entropy)
    expected = (entropy * counted).sum((1, 3)) / counted.sum((1, 3))
    normalized = entropy / visible.clamp(min=2).log()
    expected_normalized = (normalized * counted).sum((1, 3)) / counted.sum((1, 3))
    signals = measure(PlasticModel(build(architecture)), ids, obs=False)
    assert (signals.entropy - expected).abs().max() < 1e-5
    assert (signals.entropy_normalized - expected_normalized).abs().max() < 1e-5


def test_loss_is_the_models_own(architecture, ids):
    model = build(architecture)
    with torch.no_grad():
        expected = float(model(ids, labels=ids).loss)
    plastic = PlasticModel(model)
    assert measure(plastic, ids).loss == pytest.approx(expected, rel=1e-5)
    assert mean_loss(plastic, ids, 2) == pytest.approx(expected, rel=1e-5)


def test_magnitude_activation_and_moments_equal_brute_force(architecture, ids):
    model = PlasticModel(build(architecture))
    seen: list[torch.Tensor] = []
    hooks = [b.output.register_forward_pre_hook(lambda m, i: seen.append(i[0].detach())) for b in model.blocks]
    with torch.no_grad():
        model(ids)
    for hook in hooks:
        hook.remove()
    signals = measure(model, ids, statistics=True)
    for layer, block in enumerate(model.blocks):
        weight, x = block.output_weight(), seen[layer].flatten(0, 1)  # (H*D, E), (B*T, H*D)
        assert torch.allclose(
            signals.statistics.sites[block.index].gram.float(), x.t() @ x / len(x), rtol=1e-3, atol=1e-5
        )
        assert torch.allclose(signals.statistics.sites[block.index].mean.float(), x.mean(0), rtol=1e-3, atol=1e-5)
        for head in range(4):
            span = slice(head * block.head_dim, (head + 1) * block.head_dim)
            assert signals.magnitude[layer, head] == pytest.approx(float(weight[span].norm()), rel=1e-4)
            written = (x[:, span] @ weight[span]).square().sum(1).mean().sqrt()
            assert signals.activation[layer, head] == pytest.approx(float(written), rel=1e-3)
            flap = (x[:, span].double().var(0, correction=0) * weight[span].double().square().sum(1)).sum()
            assert signals.fluctuation[layer, head] == pytest.approx(float(flap), rel=1e-3)


def test_fluctuation_is_what_a_bias_cannot_stand_in_for(ids):
    """Of a head with orthogonal output rows: the least mean squared error of writing a constant in its place."""
    model = PlasticModel(build("gpt2"))
    block = model.blocks[0]
    with torch.no_grad():
        block.output.weight[:16] = torch.linalg.qr(torch.randn(64, 16))[0].t() * torch.linspace(1, 3, 16)[:, None]
    seen: list[torch.Tensor] = []
    hook = block.output.register_forward_pre_hook(lambda m, i: seen.append(i[0].detach()))
    with torch.no_grad():
        model.model(ids)
    hook.remove()
    written = seen[0].flatten(0, 1)[:, :16].double() @ block.output_weight()[:16].double()
    error = (written - written.mean(0)).square().sum(1).mean()
    for options in ({"obs": True}, {"obs": False}):  # whole second moments, or each head's own block of them
        found = measure(model, ids, batch_size=2, **options).fluctuation
        assert found[0, 0] == pytest.approx(float(error), rel=1e-3)


def inputs_of(model, site, ids):
    """(tokens, I) what a projection reads, as gated."""
    seen: list[torch.Tensor] = []
    hook = site.output.register_forward_pre_hook(lambda m, i: seen.append(i[0].detach().double()))
    with torch.no_grad():
        model.model(ids)
    hook.remove()
    return seen[0].flatten(0, 1)


def test_fluctuation_of_pruned_units_is_measured_before_their_gates(ids):
    model = PlasticModel(build("llama"), mlp_blocks=2)
    head, block = (1, 2), (0, 5)
    mask = torch.zeros(model.shape, dtype=torch.bool)
    mask[head] = mask[block] = True
    model.prune(mask)
    found = [measure(model, ids, obs=obs).fluctuation for obs in (False, True)]
    model.revive(mask)
    expected = {}
    for unit, site, number in ((block, model.sites[1], 1), (head, model.sites[2], 2)):  # what either reads, itself open
        x = inputs_of(model, site, ids)
        span = slice(number * site.unit_width, (number + 1) * site.unit_width)
        rows = site.output_weight()[span].double().square().sum(1)
        expected[unit] = float((x[:, span].var(0, correction=0) * rows).sum())
        model.prune((torch.arange(12).view(2, 6) == 5) & mask)  # the head is behind the block
    for fluctuation in found:
        for unit, value in expected.items():
            assert fluctuation[unit] == pytest.approx(value, rel=1e-3)


def test_obs_is_the_error_of_the_best_refit_without_the_head(architecture, ids):
    model = PlasticModel(build(architecture))
    signals = measure(model, ids, statistics=True)
    for layer, block in enumerate(model.blocks):
        weight, gram = block.output_weight().double(), signals.statistics.sites[block.index].gram
        hessian = gram + OBS_RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
        for head in range(4):
            kept = torch.ones(len(gram), dtype=torch.bool)
            kept[head * block.head_dim : (head + 1) * block.head_dim] = False
            refit = torch.zeros_like(weight)
            refit[kept] = torch.linalg.solve(hessian[kept][:, kept], hessian[kept] @ weight)
            error = refit - weight
            brute = 0.5 * torch.trace(error.t() @ hessian @ error)
            assert signals.obs[layer, head] == pytest.approx(float(brute), rel=1e-4)


def test_padding_counts_nowhere(architecture, ids):
    model = PlasticModel(build(architecture))
    padded = torch.cat([ids, torch.full((3, 5), 7)], 1)
    mask = torch.cat([torch.ones_like(ids), torch.zeros(3, 5, dtype=torch.long)], 1)
    plain, with_padding = measure(model, ids), measure(model, padded, attention_mask=mask)
    for name in ("fisher", "gradient", "entropy", "activation", "fluctuation", "obs"):
        assert torch.allclose(getattr(plain, name), getattr(with_padding, name), rtol=2e-3, atol=1e-5), name


def test_measuring_changes_nothing(architecture, ids):
    model = PlasticModel(build(architecture))
    mask = torch.zeros(2, 4, dtype=torch.bool)
    mask[1, 1] = True
    model.prune(mask)
    with torch.no_grad():
        before = model(ids).logits
    measure(model, ids)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, before)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_revive_signal_is_the_gain_of_opening_a_pruned_head(ids):
    model = PlasticModel(build("llama").double())
    mask = torch.zeros(2, 4, dtype=torch.bool)
    mask[0, 2] = True
    model.prune(mask)
    signals = measure(model, ids)
    gain = -float(slope(model, ids, model.gates.double(), 0, 2).mean())
    assert float(signals.revive[0, 2]) == pytest.approx(gain, rel=2e-3)
    assert (signals.revive[~mask] == 0).all()
    assert signals.obs[0, 2] == 0


def test_a_batch_of_one_token_is_refused():
    with pytest.raises(InputError, match=r"tokens >= 2"):
        measure(PlasticModel(build("gpt2")), torch.zeros(1, 1, dtype=torch.long))


def test_queries_that_see_no_key_ruin_no_kernels_gradients(architecture, ids, monkeypatch):
    """Left padding: on CUDA these passes go through the plain kernel."""
    mask = torch.ones_like(ids)
    mask[0, :4] = mask[2, :2] = 0
    model, found = PlasticModel(build(architecture)), {}
    for kernel in ("flash_cpu", "plain"):
        monkeypatch.setattr(recorder, "choose_kernel", lambda *_, kernel=kernel: kernel)
        found[kernel] = measure(model, ids, attention_mask=mask)
    assert found["plain"].kernel == "plain"
    for name in ("fisher", "gradient", "entropy", "activation", "fluctuation", "obs", "magnitude"):
        one, two = (getattr(found[kernel], name) for kernel in found)
        assert torch.allclose(one, two, rtol=2e-3, atol=1e-5), name


def test_gradients_that_are_not_finite_are_an_error_where_the_loss_is(ids, monkeypatch):
    model = PlasticModel(build("gpt2"))
    monkeypatch.setattr(recorder, "choose_kernel", lambda *_: "plain")

    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * torch.nan

    inner = entropy._plain
    monkeypatch.setattr(entropy, "_plain", lambda *args: (Broken.apply((o := inner(*args))[0]), *o[1:]))
    with pytest.raises(InputError, match="not finite"):
        measure(model, ids)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])  # with a bias of its own, and without
def test_versions_with_biases_of_their_own_are_measured_as_each_alone(architecture, ids):
    model = PlasticModel(build(architecture))
    texts, biases = torch.stack([ids, ids.flip(0)]), torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    together = measure_many(model, texts, model.gates.expand(2, -1, -1), projections={0: Projection(bias=biases)})
    for found, text, bias in zip(together, texts, biases, strict=True):
        alone = PlasticModel(build(architecture))
        alone.apply_repair(0, None, bias)
        torch.testing.assert_close(found.sequence_loss, measure(alone, text).sequence_loss, rtol=1e-4, atol=0)


def test_sampled_losses_are_those_of_drawn_next_tokens_alone(ids):
    model = PlasticModel(build("llama").double())
    with torch.no_grad():
        own, found = text_losses(model, ids, None, sampled=True)
        logits = model(ids).logits
        drawn = torch.stack([_drawn(row, text) for row, text in zip(logits, ids, strict=True)])
        log_probs = logits.log_softmax(-1)[:, :-1]  # the last position predicts nothing
    for losses, targets in ((own, ids[:, 1:]), (found, drawn[:, :-1])):
        expected = -log_probs.gather(2, targets[..., None])[..., 0].mean(1)
        torch.testing.assert_close(losses.double(), expected, rtol=1e-4, atol=0)


def test_two_tokens_are_enough(ids):
    model = PlasticModel(build("gpt2"))
    logits = model(input_ids=ids[:, :2]).logits[:, 0]
    loss = torch.nn.functional.cross_entropy(logits, ids[:, 1])
    assert measure(model, ids[:, :2], obs=False).loss == pytest.approx(loss.item(), rel=1e-5)
