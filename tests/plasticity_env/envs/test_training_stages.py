"""go_on(): an episode that begins where the last one ended, on another text."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from plasticity_env import InputError, load_model, load_text
from plasticity_env.envs.observation import global_value, head_column
from plasticity_env.signals.measure import mean_loss

TRAINS = {"train_steps": 2, "batch_size": 2, "horizon": 2, "learning_rate": 1e-3}
KEEP = np.zeros(16, dtype=int)
RANK = "plasticity/HeadRank-v1"


@pytest.fixture(scope="module")
def other_text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "other.txt"
    path.write_text("The mill stands by the river, and the river runs to the sea; who asks the sea? " * 300)
    return load_text(str(path), load_model("bard-gpt2-4x4").tokenizer, block_size=32)


@pytest.fixture
def make(make_env, small_text):
    return lambda env_id="plasticity/Heads-v1", **more: (
        make_env(env_id, text=small_text, **{**TRAINS, **more}).unwrapped
    )


def test_weights_and_moments_are_those_of_one_optimizer_over_both_texts(make, small_text, other_text):
    env = make(horizon=1)
    env.reset(options={"stream": 3})
    env.step(KEEP)
    env.go_on(other_text, options={"stream": 5})
    env.step(KEEP)
    model = load_model("bard-gpt2-4x4").model.model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    for text, stream in ((small_text, 3), (other_text, 5)):
        blocks = text.blocks("train")
        for row in np.random.default_rng([stream, 2]).integers(len(blocks), size=(2, 2)):
            ids = blocks[row.tolist()]
            logits = model(input_ids=ids).logits[:, :-1]
            F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    for (name, mine), theirs in zip(env.model.model.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4, msg=name)


def test_the_mask_stays_and_a_target_is_reached_from_there(make, other_text):
    env = make(RANK, pruned_share=0.5)
    env.reset(options={"stream": 0})
    scores = np.linspace(-1, 1, 16, dtype=np.float32)
    for _ in range(2):
        env.step(scores)
    observation, _ = env.go_on(other_text)
    assert (head_column(observation, "active") == (np.arange(16) >= 8)).all()
    assert (head_column(observation, "age")[:4] == 1).all()  # pruned in the first round
    assert global_value(observation, "due_share") == pytest.approx(0.5)
    observation, _, _, _, info = env.step(-scores)
    assert info["active_heads"] == 8  # the share holds from the first decision on
    assert (head_column(observation, "active") == (np.arange(16) < 8)).all()
    env.step(-scores)
    observation, _ = env.go_on(options={"pruned_share": 0.25})
    assert [global_value(observation, "due_share")] == pytest.approx([0.375])
    assert [env.step(scores)[4]["active_heads"] for _ in range(2)] == [10, 12]


def test_it_measures_and_evaluates_on_the_new_text(make, small_text, other_text):
    env = make(repair="none")
    env.reset(options={"stream": 0})
    env.step(KEEP)
    _, info = env.go_on(other_text, options={"reward": [1, 2]})
    assert info["loss"] == pytest.approx(mean_loss(env.model, other_text.blocks("reward")[[1, 2]]), abs=1e-5)
    assert env.evaluate("test", 3) == pytest.approx(mean_loss(env.model, other_text.blocks("test")[:3]), abs=1e-5)
    old = env.evaluate("test", 3, text=small_text)
    assert old == pytest.approx(mean_loss(env.model, small_text.blocks("test")[:3]), abs=1e-5)
    assert env.evaluate("test", 3) != old


def test_repair_reads_the_new_calibration_text(make, other_text):
    env = make()
    env.reset(options={"stream": 0})
    prune = KEEP.copy()
    prune[:2] = 1
    env.step(prune)
    before = env.model.sites[0].output_weight().clone()
    env.go_on(other_text)
    assert not torch.equal(before, env.model.sites[0].output_weight())
    assert env.model.repaired_sites


def test_the_reference_is_the_control_arm_that_is_given(make, other_text):
    env = make()
    env.reset(options={"stream": 0})
    observation, info = env.go_on(other_text, [5.0, 4.0])
    assert global_value(observation, "log_ppl_kept") == pytest.approx(5.0 - info["loss"], abs=1e-5)
    for _ in range(2):  # the last reference stands for those that lack
        observation, _, _, _, info = env.step(KEEP)
        assert global_value(observation, "log_ppl_kept") == pytest.approx(4.0 - info["loss"], abs=1e-5)
    observation, info = env.go_on()
    assert global_value(observation, "log_ppl_kept") == pytest.approx(0.0, abs=1e-6)


def test_a_state_of_an_earlier_text_comes_back(make, other_text):
    env = make()
    env.reset(options={"stream": 0})
    env.step(KEEP)
    state = env.get_state()
    expected = env.step(KEEP)[4]["loss"]
    env.go_on(other_text)
    env.step(KEEP)
    env.set_state(state)
    assert env.step(KEEP)[4]["loss"] == expected


def test_a_reset_begins_dense_on_the_present_text(make, make_env, other_text):
    env = make()
    env.reset(options={"stream": 0})
    env.step(np.ones(16, dtype=int))
    env.go_on(other_text)
    env.step(KEEP)
    env.reset(options={"stream": 0})  # the control arm of this stream was trained on the other text
    fresh = make_env(text=other_text, **TRAINS).unwrapped
    fresh.reset(options={"stream": 0})
    mine, theirs = (each.get_state()["episode"] for each in (env, fresh))
    assert mine.active.all()
    assert mine.reference == pytest.approx(theirs.reference, abs=1e-6)
    assert env.episode_record().rewards == ()


def test_what_cannot_go_on_says_so(make, make_env, small_text, other_text):
    frozen = make_env(text=small_text).unwrapped
    frozen.reset(seed=0)
    with pytest.raises(InputError, match="train_steps above 0"):
        frozen.go_on(other_text)
    env = make()
    env.reset(options={"stream": 0})
    long = load_text("shakespeare", env.workbench.tokenizer, block_size=64)
    with pytest.raises(InputError, match="blocks of 64 tokens"):
        env.go_on(long)
    assert env.workbench.text is small_text
    env.go_on(other_text)
    with pytest.raises(InputError, match="began dense"):
        env.episode_record()
