"""The study of scores and repairs: cells resume, every figure is on the test split, the table pairs seeds."""

from __future__ import annotations

import pytest
import torch

import controllers
from plasticity_env import InputError, load_model, load_text, mean_loss, measure
from plasticity_env.observation import HeadState, head_tokens
from plasticity_env.repair import repair_sites
from plasticity_env.repair.study import SCORES, Study, read_cells, run_study, table


@pytest.fixture(scope="module")
def small():
    loaded = load_model("bard-gpt2-4x4")
    return loaded, load_text("shakespeare", loaded.tokenizer, block_size=32)


def play(small, path, **kwargs):
    study = Study("shakespeare", 32, calibration_blocks=8, test_blocks=8, batch_size=8)
    arguments = {"scores": ["fisher"], "repairs": ["none", "least_squares"], "shares": [0.5], "seeds": 2, **kwargs}
    return list(run_study(*small, study, path, **arguments))


def test_cells_are_those_of_pruning_and_repairing_by_hand(small, tmp_path):
    cells = {(cell.repair, cell.seed): cell for cell, _ in play(small, tmp_path / "cells.jsonl")}
    model, text = small[0].model, small[1]
    import numpy as np

    drawn = np.sort(np.random.default_rng(1).choice(len(text.blocks("calibration")), 8, replace=False))
    signals = measure(model, text.blocks("calibration")[drawn.tolist()], statistics=True)
    active = torch.ones(16, dtype=torch.bool)
    active[signals.fisher.flatten().argsort()[:8]] = False
    test = text.blocks("test")[:8]
    assert cells["none", 1].dense_loss == pytest.approx(mean_loss(model, test), abs=1e-5)
    model.set_active(active.view(4, 4))
    assert cells["none", 1].test_loss == pytest.approx(mean_loss(model, test), abs=1e-4)
    repair_sites(model, "least_squares", signals.statistics)
    assert cells["least_squares", 1].test_loss == pytest.approx(mean_loss(model, test), abs=1e-4)
    model.undo_repair()
    model.set_active(torch.ones(4, 4, dtype=torch.bool))


def test_scores_of_two_signals_rank_as_their_controllers_do(small):
    """On the dense model and on a pruned one: the study's table and the controllers choose alike."""
    model, text = small[0].model, small[1]
    ids, random = text.blocks("calibration")[:4], torch.Generator().manual_seed(0)
    for gone in ([], [0, 5, 6, 7]):
        active = torch.ones(16, dtype=torch.bool)
        active[gone] = False
        active = active.view(4, 4)
        model.set_active(active)
        signals = measure(model, ids)
        model.set_active(torch.ones(4, 4, dtype=torch.bool))
        state = HeadState(active[None], active[None].float(), active[None].numpy(), active[None].float(), 1, 4)
        seen = {"heads": head_tokens(state, [signals], hide_pruned=False)[0]}
        for name in ("fluctuation", "flap", "fisher_obs"):
            mine = SCORES[name](signals, active, random)[active].double()
            other = torch.from_numpy(controllers.make(name).importance(seen)).view(4, 4)[active].double()
            assert torch.equal(mine.argsort(stable=True), other.argsort(stable=True)), name


def test_a_cut_run_goes_on_where_it_was(small, tmp_path):
    path = tmp_path / "cells.jsonl"
    assert [known for _, known in play(small, path, seeds=1)] == [False, False]
    cells = play(small, path, repairs=["none", "least_squares", "scale"])
    assert [known for _, known in cells].count(True) == 2
    assert len(read_cells(path)) == 6
    head = table(read_cells(path)).splitlines()
    assert len(head) == 5
    assert "(1.000)" in next(line for line in head if "least_squares" in line)


def test_rounds_measure_what_is_left(small, tmp_path):
    once, rounds = (
        play(small, tmp_path / f"{n}.jsonl", scores=["residual_fisher"], seeds=1, rounds=n)[1][0] for n in (1, 4)
    )
    assert once.removed == rounds.removed == 8
    assert once.test_loss != rounds.test_loss


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": ["fischer"]}, "did you mean 'fisher'"),
        ({"repairs": ["mend"]}, "unknown repair 'mend'"),
        ({"shares": [1.0]}, "must lie between 0 and 1"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(small, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        play(small, tmp_path / "cells.jsonl", **change)
    assert not (tmp_path / "cells.jsonl").exists()
