"""The study's cells: same training and FLOPs for all arms, and what is reported is what happened."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest
import torch

from plasticity_env import InputError, load_model
from plasticity_env.agents.studies.adaptive.searching import SwapSearch
from plasticity_env.agents.studies.adaptive.study import load_texts, run_study
from plasticity_env.agents.studies.adaptive.study_arms import make_arm
from plasticity_env.agents.studies.adaptive.study_cells import read_cells
from plasticity_env.agents.studies.adaptive.study_setting import Setting
from plasticity_env.agents.studies.adaptive.study_tables import Cells
from plasticity_env.signals.measure import mean_loss
from tests.agents.adaptive.conftest import ARMS, SETTING


def masks_of(cell):
    return np.array([[bit == "1" for bit in mask] for stage in cell.stages for mask in stage.masks])


def test_every_pruned_arm_ends_each_stage_with_the_same_flops(cells):
    found, _ = cells
    assert list(found) == ["control", *ARMS]
    assert [stage.flops_kept for stage in found["control"].stages] == [1.0, 1.0]
    kept = {stage.flops_kept for arm in ARMS if arm != "thresholds" for stage in found[arm].stages}
    assert len(kept) == 1
    assert 0 < kept.pop() < 1
    assert all(stage.flops_kept >= found["once"].stages[0].flops_kept for stage in found["thresholds"].stages)


def test_the_control_arm_is_plain_training(cells, texts):
    control = cells[0]["control"]
    model = load_model("bard-gpt2-4x4").model.model
    test = {domain: text.blocks("test")[:2] for domain, text in texts.items()}
    assert control.dense == pytest.approx({d: mean_loss(model_of(model), ids) for d, ids in test.items()}, abs=1e-5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.01)
    for stage, (stream, domain) in zip(control.stages, ((0, "home"), (1000, "shift")), strict=True):
        blocks = texts[domain].blocks("train")
        for row in np.random.default_rng([stream, 2]).integers(len(blocks), size=(2, 2)):
            loss = model(input_ids=blocks[row.tolist()], labels=blocks[row.tolist()]).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        assert stage.test == pytest.approx({d: mean_loss(model_of(model), ids) for d, ids in test.items()}, abs=1e-4)


def model_of(model):
    """Hand a trained stock model's weights to the wrapped one that measures."""
    wrapped = load_model("bard-gpt2-4x4").model
    wrapped.load_state_dict(model.state_dict())
    return wrapped


def test_the_other_arms_reference_is_the_control_arm(cells, loaded, texts):
    control = cells[0]["control"]
    env = gym.make(
        "plasticity/HeadRank-v1",
        loaded=loaded,
        text=texts["home"],
        pruned_share=0.5,
        horizon=2,
        train_steps=1,
        batch_size=2,
        max_length=16,
        calibration_blocks=4,
        reward_blocks=2,
        disable_env_checker=True,
    ).unwrapped
    env.reset(options={"stream": 0})
    assert env.get_state()["episode"].reference == pytest.approx(control.stages[0].losses, abs=1e-5)


def test_counts_are_those_of_the_masks(cells):
    for arm, cell in cells[0].items():
        masks, start = masks_of(cell), np.ones(16, dtype=bool)
        for stage, after in zip(cell.stages, (masks[:2], masks[2:]), strict=True):
            steps = list(pairwise([start, *after]))
            assert stage.prunes == sum((a & ~b).sum() for a, b in steps), arm
            assert stage.returns == sum((~a & b).sum() for a, b in steps), arm
            assert stage.came_back == (after[-1] & ~start).sum(), arm
            assert (stage.closed is None) == (stage.came_back == 0), arm
            start = after[-1]


def test_who_may_bring_heads_back(cells):
    found, _ = cells
    for arm in ("control", "once", "compressed:fisher"):
        assert sum(stage.returns for stage in found[arm].stages) == 0
        assert all((~a | b).all() for b, a in pairwise(masks_of(found[arm])))  # nothing that went is there again
    for arm in ("rule:random", "grow:random"):
        assert found[arm].stages[1].returns > 0
    assert (masks_of(found["once"])[0] == masks_of(found["once"])[-1]).all()
    assert found["compressed:fisher"].stages[0].masks[0].count("0") == 4  # half of the way after half of the stage


def test_a_cut_run_goes_on_and_leaves_the_model_as_it_was(cells, loaded, texts):
    _, path = cells
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    text = path.read_text()
    again = list(run_study(loaded, texts, SETTING, path, arms=["once", "plasticity"], seeds=1))
    assert [known for _, known in again] == [True, True, False]
    assert path.read_text().startswith(text)
    assert read_cells(path)[-1] == again[-1][0]
    assert loaded.model.active.all()
    assert all(torch.equal(value, before[name]) for name, value in loaded.model.state_dict().items())


def test_a_swap_is_taken_only_where_the_measured_loss_falls(loaded, texts):
    env = gym.make(
        "plasticity/HeadRank-v1",
        loaded=loaded,
        text=texts["home"],
        pruned_share=0.25,
        horizon=1,
        max_length=16,
        calibration_blocks=4,
        reward_blocks=2,
        repair="none",
        disable_env_checker=True,
    ).unwrapped
    observation, _ = env.reset(seed=0)
    plain, found = SwapSearch("random", swaps=0, blocks=2), SwapSearch("random", swaps=1, blocks=2)
    losses = [env.evaluate("calibration", 2, env.preview(each(env, observation))) for each in (plain, found)]
    assert losses[1] <= losses[0]
    assert plain.evaluations == 1
    assert found.evaluations == 1 + 16 + 1
    assert int((~env.preview(found(env, observation))).sum()) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": "home,away"}, "stages name 'home' or 'shift'"),
        ({"share": 1.0}, "share must lie in \\(0, 1\\)"),
        ({"decisions": 0}, "decisions must be a whole number of at least 1"),
        ({"test_blocks": 0}, "test_blocks must be a whole number of at least 1"),
    ],
)
def test_settings_are_checked(change, message):
    with pytest.raises(InputError, match=message):
        Setting(**change)


def test_what_cannot_be_played_is_refused_before_anything_is_written(loaded, texts, tmp_path, text_file):
    path = tmp_path / "cells.jsonl"
    for arms, seeds, message in (
        (["fly"], 1, "fly"),
        (["rule:fishy"], 1, "fishy"),
        (["search:fishy"], 1, "fishy"),
        (["grow:flap"], 1, "compares active heads only"),
        (["plasticity:fisher"], 1, "takes no option"),
        ([f"ann:{tmp_path}"], 1, "no controller at"),
        (["once"], 0, "seeds must be a whole number of at least 1"),
    ):
        with pytest.raises(InputError, match=message):
            list(run_study(loaded, texts, SETTING, path, arms=arms, seeds=seeds))
    assert not path.exists()
    with pytest.raises(InputError, match="do not fit"):
        load_texts(loaded, SETTING, text_file)
    with pytest.raises(InputError, match="test_blocks 99999 is more"):
        load_texts(loaded, Setting(stages="home", test_blocks=99999), text_file)


def test_another_network_under_the_same_name_is_another_cell(loaded, texts, tmp_path):
    from plasticity_env.controllers import ANNController

    def study():
        return [(c, known) for c, known in run_study(loaded, texts, one, path, arms=[arm], seeds=1) if c.arm == arm]

    path, arm = tmp_path / "cells.jsonl", f"ann:{tmp_path / 'net'}"
    one, texts = replace(SETTING, stages="home", decisions=1), {"home": texts["home"]}
    ANNController(info={"global_step": 1}).save(tmp_path / "net")
    ((first, known),) = study()
    assert (known, len(first.fingerprint)) == (False, 12)
    assert study() == [(first, True)]
    ANNController(info={"global_step": 2}).save(tmp_path / "net")
    ((second, known),) = study()
    assert not known
    assert second.key != first.key
    assert Cells(read_cells(path)).by_arm[arm] == {0: second}


def test_cells_without_a_fingerprint_are_read(cells):
    found, path = cells
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        del row["fingerprint"], row["check"]
    old = path.with_name("old.jsonl")
    old.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_cells(old)[: len(found)] == list(found.values())


def test_a_search_by_chance_draws_by_the_seed(loaded, texts):
    arm = make_arm("search:random", SETTING)
    drawn = [arm.decider(seed)._random.random() for seed in (0, 1, 0)]
    assert drawn[0] == drawn[2] != drawn[1]


def test_a_saved_controller_is_an_arm(tmp_path):
    from plasticity_env.controllers import ANNController

    ANNController(info={"global_step": 1}).save(tmp_path / "one")
    assert make_arm(f"ann:{tmp_path / 'one'}", SETTING).settings == {"pruned_share": 0.5, "mode": "adaptive"}
    ANNController().save(tmp_path / "two")
    with pytest.raises(InputError, match="needs a trained controller"):
        make_arm(f"ann:{tmp_path / 'two'}", SETTING)
