"""Edits of all heads at once: whatever is asked, no limit is broken."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity_env.envs.edits import Limits, allowed_edits, resolve
from plasticity_env.model.flops import CostTable
from plasticity_env.model.modes import PruningMode


@settings(max_examples=150, deadline=None)
@given(
    active=st.lists(st.booleans(), min_size=12, max_size=12),
    edits=st.lists(st.integers(0, 3), min_size=12, max_size=12),
    minimum=st.integers(0, 3),
    most=st.integers(0, 11),
    share=st.one_of(st.none(), st.floats(0.5, 1.0)),
    mode=st.sampled_from(list(PruningMode)),
    trains=st.booleans(),
    seed=st.integers(0, 99),
)
def test_resolved_edits_break_no_limit(active, edits, minimum, most, share, mode, trains, seed):
    active = torch.tensor(active).view(3, 4)
    costs = CostTable(100.0, 5.0, 3.0, 2)
    dense = costs.total(torch.ones(3, 4, dtype=torch.bool))
    limits = Limits(mode, trains, minimum, most, None if share is None else share * dense)
    fisher = torch.rand(3, 4, generator=torch.Generator().manual_seed(seed))
    edits = torch.tensor(edits).view(3, 4)
    masks, invalid = resolve(active, edits, limits, costs, fisher)
    after = (active & ~masks.prune) | masks.revive | masks.grow
    lost = active & ~after
    if lost.any():
        assert (after.sum(1) >= minimum)[lost.any(1)].all()
        assert (~after).sum() <= max(most, int((~active).sum()))
        assert limits.min_flops is None or costs.total(after) >= limits.min_flops - 1e-9
    if mode is PruningMode.COMPRESSED:
        assert not masks.revive.any()
        assert not masks.grow.any()
    assert not (masks.grow.any() and not trains)
    done = int(masks.prune.sum() + masks.revive.sum() + masks.grow.sum())
    assert done + invalid == int((edits != 0).sum())
    kept = (edits == 1) & ~masks.prune & allowed_edits(active, limits, costs)[..., 1]
    if kept.any() and masks.prune.any() and minimum == 0:  # what was spared mattered more than what went
        assert fisher[kept].min() >= fisher[masks.prune].max() or share is not None
