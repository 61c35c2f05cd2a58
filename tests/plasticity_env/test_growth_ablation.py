"""The growth ablation: every arm runs, a cut run goes on, and the table compares seed by seed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from plasticity_env import InputError, load_model, load_text
from plasticity_env.growth.ablation import (
    ARMS,
    BASELINE,
    ElsewhereWeights,
    Setting,
    find_arms,
    read_cells,
    run_ablation,
    run_cell,
    table,
)
from plasticity_env.growth.initial_weights import Source
from tests.plasticity_env.test_growth_skip import deep


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("To be, or not to be, that is the question: whether 'tis nobler in the mind. " * 200)
    return Setting(str(path), steps=2, batch_size=2, block_size=16, warmup_steps=1, calibration_blocks=2, test_blocks=4)


def test_a_cut_run_goes_on_and_every_arm_stands_in_the_table(setting, tmp_path):
    path = tmp_path / "cells.jsonl"
    run = run_ablation(["bard-gpt2-4x4"], 1, setting, path)
    first = [next(run) for _ in range(3)]
    run.close()
    assert [known for _, known in first] == [False] * 3
    cells = list(run_ablation(["bard-gpt2-4x4"], 1, setting, path))
    assert [known for _, known in cells] == [True] * 3 + [False] * (len(ARMS) - 3)
    assert [cell for cell, _ in cells] == read_cells(path)
    by_arm = {cell.arm: cell for cell, _ in cells}
    assert list(by_arm) == [arm.name for arm in ARMS]
    for arm in ARMS:  # 20% of 16 slots
        assert len(by_arm[arm.name].heads) == (3 if arm.strategy or arm.revive else 0)
        assert len(by_arm[arm.name].gates) == (1 if arm.skip else 0)
    pruned = [by_arm[name].edited_loss for name in (BASELINE, "no growth, skip")]
    assert pruned[0] == pruned[1]
    rows = table(cell for cell, _ in cells).splitlines()
    assert len(rows) == 2 + len(ARMS)
    gain = by_arm["revive"].final_loss - by_arm[BASELINE].final_loss
    assert any(row.startswith("| revive |") and f"{gain:+.4f}" in row for row in rows)
    two_seeds = [cell for cell, _ in cells] + [replace(by_arm[BASELINE], seed=1)]
    assert any(row.startswith("| revive (1 of 2 seeds) |") for row in table(two_seeds).splitlines())
    again = [known for _, known in run_ablation(["bard-gpt2-4x4"], 1, replace(setting, steps=1), path)]
    assert not any(again)  # another setting is another cell


def test_the_control_of_transfer_never_asks_the_mirrored_layer():
    model = deep("gpt2")
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[0, 1] = mask[1, 1] = mask[2, 2] = mask[3, 3] = True
    model.prune(mask)
    kind = ElsewhereWeights()
    pieces = model.pieces(0, 1, "unit") + model.pieces(0, 1, "group")
    for _ in range(4):
        kind(model, 0, 1, pieces, torch.Generator().manual_seed(0))
        assert kind.sources[0, 1] in (Source("pruned", 1, 1), Source("pruned", 2, 2))
    alone = deep("gpt2")
    alone.prune(mask & (torch.arange(4) == 1)[None] & (torch.arange(4) == 0)[:, None])
    assert kind.source(alone, 1, 0) == Source("pruned", 0, 1)
    assert kind.source(alone, 3, 0) == Source("random")


def test_bad_input(setting, tmp_path):
    with pytest.raises(InputError, match="seeds"):
        next(run_ablation(["bard-gpt2-4x4"], 0, setting, tmp_path / "cells.jsonl"))
    assert [arm.name for arm in find_arms(["dense", "revive"])] == ["dense", "revive"]
    assert find_arms([]) == list(ARMS)
    with pytest.raises(InputError, match="no arm is named like 'revived'"):
        find_arms(["revived"])
    (tmp_path / "other.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(InputError, match="line 1 of"):
        next(run_ablation(["bard-gpt2-4x4"], 1, setting, tmp_path / "other.jsonl"))


def test_a_cell_leaves_the_model_as_it_was(setting):
    loaded = load_model("bard-gpt2-4x4")
    text = load_text(setting.dataset, loaded.tokenizer, block_size=setting.block_size)
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    arms = {arm.name: arm for arm in ARMS}
    first = run_cell(loaded, text, arms["balanced, copy"], 0, setting)
    run_cell(loaded, text, arms["gradient_sensitivity, transfer, skip"], 0, setting)
    assert bool(loaded.model.active.all())
    assert all(torch.equal(value, before[name]) for name, value in loaded.model.state_dict().items())
    assert run_cell(loaded, text, arms["balanced, copy"], 0, setting) == first
