"""The grid: one pruned model for all arms, a control arm, cells that a cut run goes on from, a table that adds up."""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import replace

import pytest
import torch

from plasticity_env import InputError, load_model, load_text
from plasticity_env.cycle.grid.grid_picture import recovery_png
from plasticity_env.cycle.grid.grid_plan import CONTROL, GridArm, GridSetting, plan
from plasticity_env.cycle.grid.grid_report import GridCells, grid_table
from plasticity_env.cycle.grid.grid_run import GridCell, Losses, _plain, read_cells, run_grid
from plasticity_env.signals.measure import mean_loss
from plasticity_env.strategies.pruning import select_for_pruning


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("To be, or not to be, that is the question: whether 'tis nobler in the mind. " * 300)
    sizes = {"training_steps": 4, "batch_size": 2, "max_length": 16, "calibration_blocks": 4, "test_blocks": 4}
    return GridSetting(dataset=str(path), learning_rate=1e-3, **sizes)


@pytest.fixture(scope="module")
def model():
    return load_model("bard-gpt2-4x4")


@pytest.fixture(scope="module")
def text(model, setting):
    return load_text(setting.dataset, model.tokenizer, block_size=setting.max_length)


ARMS = plan(
    [0.5],
    [0.25],
    strategies=["none", "balanced", "revive"],
    multipliers=[1.0, 3.0],
    warmups=[0, 2],
    cycles=[1, 2],
    steps=4,
)


@pytest.fixture(scope="module")
def cells(model, text, setting, tmp_path_factory):
    path = tmp_path_factory.mktemp("grid") / "cells.jsonl"
    dense = {name: value.clone() for name, value in model.model.state_dict().items()}
    run = run_grid(model, text, setting, ARMS, 1, path)
    first = [next(run) for _ in range(4)]
    run.close()
    cut = path.read_text()
    path.write_text(cut[: len(cut) - 30])  # killed in the middle of the fourth line
    rest = list(run_grid(model, text, setting, ARMS, 1, path))
    assert [known for _, known in rest] == [True] * 3 + [False] * (len(ARMS) - 3)
    again = rest[3][0]
    assert replace(again, seconds=0.0) == replace(first[3][0], seconds=0.0)  # the same cell, measured again
    assert [cell for cell, _ in rest] == read_cells(path)
    assert bool(model.model.active.all())  # and the model came out as it went in
    assert all(torch.equal(value, dense[name]) for name, value in model.model.state_dict().items())
    return [cell for cell, _ in rest]


def test_cells_that_run_elsewhere_and_in_another_order_are_the_same(model, text, setting, cells, tmp_path):
    def elsewhere(function, items, *, shared):
        for item in reversed(items):
            yield item, function(pickle.loads(pickle.dumps(shared)), item)

    path = tmp_path / "cells.jsonl"
    next(run_grid(model, text, setting, ARMS[:4], 1, path))  # one of them here
    found = list(run_grid(model, text, setting, ARMS[:4], 1, path, elsewhere))
    assert [known for _, known in found] == [True, False, False, False]
    assert [cell for cell, _ in found] == read_cells(path)
    there = {cell.arm: replace(cell, seconds=0.0) for cell, _ in found}
    assert there == {cell.arm: replace(cell, seconds=0.0) for cell in cells if cell.arm in ARMS[:4]}


def test_the_plan_holds_each_arm_once_beside_its_comparisons():
    assert ARMS[0] == CONTROL
    assert len(ARMS) == len(set(ARMS)) == 3 + 8 + 4  # control, same size, bare; 2 x 2 x 2 grown; 2 x 2 revived
    assert {GridArm(0.25), GridArm(0.5)} <= set(ARMS)
    assert [arm for arm in plan([0.1], [0.2, 0.1]) if arm.percentage == 0.2] == []  # more than was pruned
    grown = next(arm for arm in ARMS if arm.growth == "balanced")
    assert grown.without_growth == GridArm(0.5)
    assert grown.same_size == GridArm(0.25)


def test_all_arms_start_from_one_pruned_model(cells, model, text, setting):
    by_arm = {cell.arm: cell for cell in cells}
    bare = by_arm[GridArm(0.5)]
    for cell in cells:
        if cell.arm.level == 0.5:
            assert cell.pruned_loss == bare.pruned_loss
            assert cell.active_heads == (8 if cell.arm.growth == "none" else 12)
            assert cell.came_back == ([0] if cell.arm.growth == "none" else [4] * cell.arm.cycles)
            assert len(cell.cycles) == cell.arm.cycles
    control = by_arm[CONTROL]
    test = text.some("test", 4)
    assert control.pruned_loss == pytest.approx(mean_loss(model.model, test), abs=1e-6)
    assert control.flops_kept == 1.0
    chosen = text.drawn("calibration", 4, seed=0)
    snapshot = model.model.snapshot()
    model.model.prune(select_for_pruning(model.model, 8, "fisher", input_ids=chosen))
    assert bare.pruned_loss == pytest.approx(mean_loss(model.model, test), abs=1e-6)
    model.model.restore(snapshot)
    slow = by_arm[GridArm(0.5, "none", "balanced", 0.25, 1.0, 2)]
    fast = by_arm[GridArm(0.5, "none", "balanced", 0.25, 3.0, 2)]
    assert slow.cycles[0].edited == fast.cycles[0].edited
    assert abs(slow.final_loss - fast.final_loss) > 1e-5


def test_bringing_heads_back_changes_what_it_should(cells):
    by_arm = {cell.arm: cell for cell in cells}
    revived = by_arm[GridArm(0.5, "none", "revive", 0.25)]
    assert revived.cycles[0].edited < revived.pruned_loss  # the best 4 of 8 heads, as they were
    shut = by_arm[GridArm(0.5, "none", "balanced", 0.25, 1.0, 2)].cycles[0]
    assert abs(shut.edited - shut.pruned) < 1e-3  # gates of 0.01
    wide = by_arm[GridArm(0.5, "none", "balanced", 0.25, 1.0, 0)].cycles[0]
    assert abs(wide.edited - wide.pruned) > abs(shut.edited - shut.pruned)


def cell(arm, seed, pruned, final, active=8):
    return GridCell(GridSetting(), arm, seed, 16, active, [0], 0.9, [Losses(pruned, pruned, final)], 1.0)


def test_recovery_and_differences_are_taken_seed_by_seed():
    grown = GridArm(0.5, "none", "balanced", 0.25)
    rows = []
    for seed, shift in ((0, 0.0), (1, 0.1)):
        rows += [cell(CONTROL, seed, 3.0 + shift, 2.9 + shift, 16), cell(GridArm(0.5), seed, 4.0 + shift, 3.4 + shift)]
        rows += [cell(grown, seed, 4.0 + shift, 3.2 + shift, 12), cell(GridArm(0.25), seed, 3.5, 3.0 + shift, 12)]
    found = GridCells(rows)
    assert found.recovery(GridArm(0.5)) == pytest.approx([0.5, 0.5])  # 1 - (3.4 - 2.9) / (4 - 3)
    assert found.recovery(grown) == pytest.approx([0.7, 0.7])
    assert found.gain(grown, grown.without_growth) == pytest.approx([-0.2, -0.2])
    assert found.gain(grown, grown.same_size, same_heads=True) == pytest.approx([0.2, 0.2])
    assert found.gain(grown, GridArm(0.5), same_heads=True) == []
    table = grid_table(rows).splitlines()
    row = next(line for line in table if "balanced" in line)
    for entry in ("-0.2000 ± 0.0000", "70% ± 0%", "| 12 of 16 |"):
        assert entry in row
    mean = (math.exp(3.2) + math.exp(3.3)) / 2
    assert f"| {mean:.2f} ±" in row
    lacking = [r for r in rows if not (r.arm == grown and r.seed == 1)]
    assert any("balanced (1 of 2 seeds)" in line for line in grid_table(lacking).splitlines())
    tiny = [cell(CONTROL, 0, 3.0, 2.9), cell(GridArm(0.5), 0, 3.0001, 2.9)]
    assert GridCells(tiny).recovery(GridArm(0.5)) == []  # nothing was lost


def test_the_table_and_the_picture_are_made_of_real_cells(cells, tmp_path):
    lines = grid_table(cells).splitlines()
    assert sum(line.startswith(("| 50%", "| 25%")) for line in lines) == len(ARMS) - 1
    recovery_png(cells, tmp_path / "recovery.png")
    assert (tmp_path / "recovery.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="no recovery"):
        recovery_png([each for each in cells if each.arm == CONTROL], tmp_path / "none.png")


def test_cells_that_do_not_say_how_their_text_was_split_read_it_from_its_front(cells, tmp_path):
    row = _plain(cells[0])
    path = tmp_path / "cells.jsonl"
    with path.open("w") as file:
        for dataset in (row["setting"]["dataset"], "shakespeare"):
            before = {name: value for name, value in row["setting"].items() if name != "text_split"}
            file.write(json.dumps({**row, "setting": {**before, "dataset": dataset}}) + "\n")
    old, embedded = (cell.setting.text_split for cell in read_cells(path))
    assert (old, embedded) == ("leading", GridSetting().text_split)  # the embedded text comes in splits


def test_bad_input(model, text, setting, tmp_path):
    for options, said in (
        ({"levels": [1.0]}, "pruning_levels"),
        ({"percentages": [0.0]}, "growth_percentages"),
        ({"strategies": ["grow"]}, "unknown growth strategy"),
        ({"repairs": ["glue"]}, "glue"),
        ({"multipliers": [0.0]}, "multipliers"),
        ({"warmups": [3], "cycles": [2], "steps": 4}, "warmup_steps 3"),
        ({"cycles": [0]}, "cycles"),
    ):
        with pytest.raises(InputError, match=said):
            plan(**{"levels": [0.5], "percentages": [0.1], **options})
    path = tmp_path / "cells.jsonl"
    for arms, seeds, change, said in (
        ([CONTROL], 0, {}, "seeds must be at least 1"),
        ([GridArm(0.01)], 1, {}, "prunes 0 of the 16 heads"),
        ([GridArm(0.99)], 1, {}, "prunes 16 of the 16 heads"),
        ([CONTROL], 1, {"test_blocks": 10**6}, "test_blocks must be at most"),
    ):
        with pytest.raises(InputError, match=said):
            next(run_grid(model, text, replace(setting, **change), arms, seeds, path))
    assert not path.exists()
    for options in ({"learning_rate": 0.0}, {"pruning_strategy": "x"}, {"initial_scale": 2.0}, {"training_steps": 0}):
        with pytest.raises(InputError):
            GridSetting(**options)
