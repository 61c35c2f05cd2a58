"""Domains: training one leaves all others as they are, to the bit; what is saved comes back; what is new is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from plasticity_env import InputError, PlasticModel
from plasticity_env.dynamic import Domains
from plasticity_env.dynamic.low_rank import rank_of_size
from plasticity_env.model.compact.build import compact
from plasticity_env.model.flops import flops
from plasticity_env.signals.moment_files import weights_digest
from tests.conftest import build
from tests.plasticity_env.dynamic.test_structures import texts

LENGTH = 12


def wrapped(architecture: str = "llama") -> PlasticModel:
    return PlasticModel(build(architecture), mlp_blocks=2)


def domains_of(architecture: str = "llama") -> Domains:
    """A plain domain, a pruned one, one that trains the units that the pruned one gave up, one with low-rank rows."""
    domains, kinds = Domains(wrapped(architecture)), texts()
    domains.add("plain")
    domains.add("pruned")
    domains.prune("pruned", kinds["low"], 0.4)
    domains.add("regrown", units=~domains["pruned"].structure.active)
    domains.add("rows", embedding=False, rank=2)
    return domains


def remembered(domains: Domains) -> dict[str, tuple[str, torch.Tensor]]:
    """Digest of each domain's weights and of the model under it, and the losses of a text."""
    text, found = texts()["high"], {}
    for name in domains.names:
        with domains.using(name):
            found[name] = (domains[name].digest + weights_digest(domains.model), domains.losses(text))
    return found


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_training_one_leaves_the_others_to_the_bit(architecture: str) -> None:
    domains, text = domains_of(architecture), texts()["high"]
    body = weights_digest(domains.model)
    for name in domains.names[1:]:
        before = remembered(domains)
        steps = domains.train(name, text, 3, learning_rate=1e-2, batch_size=4)
        assert domains.used == name
        after = remembered(domains)
        assert float(after[name][1].mean()) < float(before[name][1].mean())
        assert steps[-1].loss < steps[0].loss + 0.1
        for other in set(domains.names) - {name}:
            assert after[other][0] == before[other][0]
            assert torch.equal(after[other][1], before[other][1])
    domains.use("dense")
    assert weights_digest(domains.model) == body
    assert bool(domains.model.active.all())
    assert not domains.model.repaired_sites
