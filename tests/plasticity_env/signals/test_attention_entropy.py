"""Entropy by the log-sum-exp identity against a naive softmax."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity_env.signals.attention_entropy import (
    attend,
    attend_with_entropy,
    attention_entropy,
    choose_kernel,
    visible_lengths,
)


def naive(query, key, mask, scale):
    scores = (query.double() @ key.double().transpose(-1, -2)) * scale
    visible = torch.ones_like(scores[0, 0], dtype=torch.bool).tril() if mask is None else mask
    p = scores.masked_fill(~visible, -math.inf).softmax(-1)
    return -torch.special.xlogy(p, p).sum(-1)


@settings(max_examples=30, deadline=None)
@given(
    tokens=st.integers(1, 300),
    dim=st.sampled_from([8, 16, 24, 64]),
    sharpness=st.floats(0.1, 1.5),
    window=st.one_of(st.none(), st.integers(1, 40)),
    kernel=st.sampled_from(["flash_cpu", "plain"]),
    seed=st.integers(0, 99),
)
def test_entropy_equals_the_naive_softmax(tokens, dim, sharpness, window, kernel, seed):
    generator, scale = torch.Generator().manual_seed(seed), sharpness / math.sqrt(dim)
    query, key, value = (torch.randn(2, 3, tokens, dim, generator=generator) for _ in range(3))
    mask = None
    if window is not None:
        distance = torch.arange(tokens)[:, None] - torch.arange(tokens)[None]
        mask = ((distance >= 0) & (distance < window))[None, None].expand(2, 1, -1, -1)
    out, lse = attend(query, key, value, mask, scale, kernel)
    entropy = attention_entropy(query, key, lse, mask, scale, kernel)
    assert (entropy - naive(query, key, mask, scale)).abs().max() < 1e-5
    visible = torch.ones(tokens, tokens, dtype=torch.bool).tril() if mask is None else mask
    again, entropy_again = attend_with_entropy(query, key, value, mask, scale, kernel)
    assert torch.allclose(again, out, atol=1e-6)
    assert (entropy_again - entropy).abs().max() < 1e-5
    p = ((query @ key.transpose(-1, -2)) * scale).masked_fill(~visible, -math.inf).softmax(-1)
    assert torch.allclose(out, p @ value, atol=1e-4)
    lengths = visible_lengths(mask, tokens, query.device)
    assert torch.equal(lengths.expand(2, 1, -1)[0, 0], visible.expand(2, 1, tokens, tokens)[0, 0].sum(-1))


@pytest.mark.parametrize("dim", [8, 16, 24, 32])
@pytest.mark.parametrize("window", [None, 5])
def test_gradients_equal_those_of_plain_attention(dim, window):
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, 3, 40, dim, generator=generator, dtype=torch.float64) for _ in range(3)]
    upstream = torch.randn(2, 3, 40, dim, generator=generator, dtype=torch.float64)
    distance = torch.arange(40)[:, None] - torch.arange(40)[None]
    visible = (distance >= 0) & (distance < (window or 99))
    mask = None if window is None else visible[None, None].expand(2, 1, -1, -1)
    found = [x.clone().requires_grad_() for x in inputs]
    attend_with_entropy(*found, mask, 0.3, "flash_cpu")[0].backward(upstream)
    plain = [x.clone().requires_grad_() for x in inputs]
    p = (plain[0] @ plain[1].transpose(-1, -2) * 0.3).masked_fill(~visible, -math.inf).softmax(-1)
    (p @ plain[2]).backward(upstream)
    for a, b in zip(found, plain, strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-10)


def test_uniform_attention_reaches_the_top_of_the_scale():
    query = torch.zeros(1, 1, 50, 16)
    key = torch.randn(1, 1, 50, 16)
    _, lse = attend(query, key, key, None, 0.25, "flash_cpu")
    entropy = attention_entropy(query, key, lse, None, 0.25, "flash_cpu")[0, 0]
    assert torch.allclose(entropy, torch.arange(1, 51).float().log(), atol=1e-6)


def test_the_kernel_is_chosen_visibly():
    query = torch.zeros(1, 1, 4, 8)
    assert choose_kernel(query, None) == "flash_cpu"
    assert choose_kernel(torch.zeros(1, 1, 4, 8, device="meta"), None) == "plain"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("dtype", "kernel"), [(torch.float32, "efficient_cuda"), (torch.bfloat16, "flash_cuda")])
def test_cuda_kernels_agree(dtype, kernel):
    query, key = (torch.randn(2, 3, 77, 32, device="cuda", dtype=dtype) for _ in range(2))
    assert choose_kernel(query, None) == kernel
    _, lse = attend(query, key, key, None, 0.2, kernel)
    entropy = attention_entropy(query, key, lse, None, 0.2, kernel)
    assert (entropy.double() - naive(query, key, None, 0.2)).abs().max() < (1e-4 if dtype == torch.float32 else 5e-2)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_the_plain_kernel_computes_half_precision_in_float32(half):
    """With scores of a hundred and more, half precision in between would be off by nats."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 4, 256, 64, generator=generator) * size for size in (2, 2, 1))
    rounded = [(query + 6).to(half), (key + 2).to(half), value.to(half)]
    exact = [each.double() for each in rounded]
    out, entropy = attend_with_entropy(*rounded, None, 0.125, "plain")
    reference, of_reference = attend_with_entropy(*exact, None, 0.125, "plain")
    assert out.dtype == half
    assert float(attend(*exact, None, 0.125, "plain")[1].max()) > 100
    assert (out.double() - reference).norm() < 0.01 * reference.norm()
    assert (entropy.double() - of_reference).abs().max() < 0.3
