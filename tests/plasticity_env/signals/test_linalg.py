"""Symmetric products of which only one half is computed."""

from __future__ import annotations

import pytest
import torch

from plasticity_env.signals.linalg import HALVED, congruence, outer_sums


@pytest.mark.parametrize("inputs", [5, HALVED, 2 * HALVED, 2 * HALVED + 7, 3 * HALVED])
def test_halves_are_the_whole_product(inputs):
    rows = torch.randn(2, 20, inputs, generator=torch.Generator().manual_seed(inputs), dtype=torch.float64)
    gram = rows.mT @ rows
    torch.testing.assert_close(outer_sums(rows), gram)
    inverse = torch.linalg.inv(gram + torch.eye(inputs).double())
    torch.testing.assert_close(congruence(inverse, gram), inverse @ gram @ inverse)
