"""The native vector environment against single environments: the same numbers, less memory, clear refusals."""

from __future__ import annotations

import gc
import sys
import types

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from plasticity_env import HEAD_FEATURES, InputError, load_model
from plasticity_env.signals.dense_moments import packed_size
from tests.conftest import ALL_SIGNALS, SMALL

TOLERANCE = 1e-5  # relative, or absolute below 1; a batch of another shape rounds differently
# signals of a model that pruning ruined are large and round worse, and so do logs and scores in units of a small spread; a
# rank may differ by a whole place between two units that are as good as equal
LOOSER = {"_rank": 0.0, "_z": 0.01, "_drift": 0.01}
WEIGHTS = [next((w for end, w in LOOSER.items() if name.endswith(end)), 0.1) for name in HEAD_FEATURES]


@pytest.fixture
def make_vec(small_text):
    def make(num_envs=3, **kwargs):
        return gym.make_vec("plasticity/Heads-v1", num_envs=num_envs, text=small_text, **{**SMALL, **kwargs})

    return make


@pytest.fixture
def make_sync(small_text):
    def make(num_envs=3, autoreset_mode=AutoresetMode.NEXT_STEP, **kwargs):
        settings = {**SMALL, "text": small_text, "disable_env_checker": True, **kwargs}
        single = [lambda: gym.make("plasticity/Heads-v1", **settings)] * num_envs
        return SyncVectorEnv(single, autoreset_mode=autoreset_mode)

    return make


def actions(steps, envs, slots, seed=0):
    random = np.random.default_rng(seed)
    return [random.choice(4, size=(envs, slots), p=[0.5, 0.25, 0.2, 0.05]) for _ in range(steps)]


def assert_near(ours, theirs, where=""):
    """Nested dictionaries of arrays: the same names, shapes and types, and near values."""
    assert ours.keys() == theirs.keys(), where
    for name, value in ours.items():
        other, place = theirs[name], f"{where}/{name}"
        if isinstance(value, dict):
            assert_near(value, other, place)
        elif value is None or value.dtype == object:
            for mine, its in zip(value, other, strict=True):
                assert (mine is None) == (its is None), place
                if mine is not None:
                    assert_near(mine, its, place)
        else:
            assert (value.shape, value.dtype) == (other.shape, other.dtype), place
            if name == "heads":
                scale = np.maximum(1.0, np.abs(other))
                value, other = WEIGHTS * value / scale, WEIGHTS * other / scale
            np.testing.assert_allclose(value, other, rtol=TOLERANCE, atol=TOLERANCE, err_msg=place)


VARIANTS = [
    {},
    {"repair": "none", "residual_signal": False, "obs_signal": False, "flop_price": (1.0, 16.0)},
    {"repair": "bias", "mode": "compressed"},
    {"repair": "scale", "reward": "kl", "residual_signal": False},
    {"units": "heads+mlp", "reward": "budget", "mlp_blocks": 2, "loaded": "narrow"},
    pytest.param({"units": "heads+mlp", "reward": "budget", "horizon": 1}, marks=pytest.mark.slow),
    {"model_name": "bard-llama-4x8", "min_heads_per_layer": 2},
    {"calibration_blocks": 3},
    {"calibration_blocks": 1},
    {"repair": "sequential", "residual_signal": False},
]


@pytest.mark.parametrize("kwargs", VARIANTS, ids=lambda kwargs: "-".join(map(str, kwargs.values())) or "default")
def test_equals_single_environments(make_vec, make_sync, narrow_model, kwargs):
    """Slow: ten measurements with all signals, as many one by one, and an MLP is as wide as many heads."""
    kwargs = {"horizon": 2, **kwargs}
    if "loaded" in kwargs:
        kwargs["loaded"] = narrow_model(kwargs["mlp_blocks"])
    ours, theirs = make_vec(2, **kwargs), make_sync(2, **kwargs)
    assert ours.single_observation_space == theirs.single_observation_space
    assert ours.action_space == theirs.action_space
    (seen, info), (expected, expected_info) = ours.reset(seed=5), theirs.reset(seed=5)
    assert_near(seen, expected)
    assert_near(info, expected_info)
    for action in actions(kwargs["horizon"] + 2, 2, ours.head_slots):  # beyond the horizon: episodes start anew
        (seen, reward, done, cut, info), its = ours.step(action), theirs.step(action)
        assert_near({"seen": seen, "reward": reward, "info": info}, {"seen": its[0], "reward": its[1], "info": its[4]})
        assert done.tolist() == its[2].tolist()
        assert not cut.any()
        assert ours.observation_space.contains(seen)


def test_a_single_mask_is_a_batch_of_one(make_vec, make_env):
    ours, single = make_vec(1), make_env(repair="least_squares", **ALL_SIGNALS)
    seen, expected = ours.reset(seed=5)[0], single.reset(seed=5)[0]
    for action in actions(3, 1, 16):
        assert all(np.array_equal(seen[name][0], expected[name]) for name in expected)
        (seen, reward, *_), (expected, its, *_) = ours.step(action), single.step(action[0])
        assert reward[0] == its


def test_same_step_autoreset_equals_gymnasiums(make_vec, make_sync):
    ours = make_vec(2, autoreset_mode="SameStep", horizon=2)
    theirs = make_sync(2, autoreset_mode=AutoresetMode.SAME_STEP, horizon=2)
    assert ours.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    ours.reset(seed=1)
    theirs.reset(seed=1)
    for action in actions(3, 2, 16):
        mine, its = ours.step(action), theirs.step(action)
        assert_near(mine[0], its[0])
        assert_near(mine[4], its[4])
        np.testing.assert_allclose(mine[1], its[1], atol=TOLERANCE)
        assert mine[2].tolist() == its[2].tolist()


def test_environments_out_of_step_with_each_other(make_vec, make_sync):
    """Slow: thirty measurements; three environments, so that some reset and some do not."""
    ours, theirs = make_vec(horizon=2), make_sync(horizon=2)
    ours.reset(seed=1)
    theirs.reset(seed=1)
    some = np.array([False, True, False])
    for number, action in enumerate(actions(5, 3, 16)):
        if number == 1:  # one starts anew, on blocks and at a price of its own
            options = {"flop_price": 2.0, "reward": [3, 4]}
            mine = ours.reset(seed=[None, 9, None], options={**options, "reset_mask": some})
            its = theirs.reset(seed=[None, 9, None], options={**options, "reset_mask": some})
            assert_near(mine[0], its[0])
            assert_near(mine[1], its[1])
        mine, its = ours.step(action), theirs.step(action)
        assert_near(mine[0], its[0])
        assert_near(mine[4], its[4])
        np.testing.assert_allclose(mine[1], its[1], atol=TOLERANCE)


def test_disabled_autoreset_wants_a_reset(make_vec):
    envs = make_vec(2, autoreset_mode="Disabled", horizon=1)
    envs.reset(seed=0)
    envs.step(np.zeros((2, 16), dtype=int))
    with pytest.raises(gym.error.ResetNeeded, match=r"\[0, 1\] are over"):
        envs.step(np.zeros((2, 16), dtype=int))
    envs.reset(options={"reset_mask": np.array([True, True])})
    envs.step(np.zeros((2, 16), dtype=int))


@pytest.mark.parametrize("kwargs", [{}, {"residual_signal": False}, {"crossfit_signal": False}])
def test_neither_passes_nor_memory_change_anything(make_vec, kwargs):
    """Slow: four ways to measure the same masks; the second step starts from what the first left."""
    traces = []
    for extra in ({"tokens_per_pass": 10**9}, {"tokens_per_pass": 100}, {"memory_share": 0}, {"memory_share": 1}):
        envs, trace = make_vec(2, **kwargs, **extra), []
        envs.reset(seed=2)
        for action in actions(2, 2, 16):
            observation, reward, *_ = envs.step(action)
            trace.append({"heads": observation["heads"], "reward": reward})
        traces.append({str(number): each for number, each in enumerate(trace)})
    for trace in traces[1:]:
        assert_near(trace, traces[0])


def test_two_seeded_runs_are_identical_and_the_weights_are_untouched(make_vec):
    runs = []
    for _ in range(2):
        envs = make_vec()
        before = {name: value.clone() for name, value in envs.workbench.model.state_dict().items()}
        run = [envs.reset(seed=3)[0]["heads"]]
        for action in actions(3, 3, 16):
            run.append(envs.step(action)[0]["heads"])
        runs.append(np.stack(run))
        after = envs.workbench.model.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in after)
    assert np.array_equal(*runs)


def test_masks_that_several_environments_share_are_measured_once(make_vec):
    envs = make_vec(4)
    memo = envs.workbench.memo
    same = {"calibration": [0, 1, 2, 3], "reward": [4, 5, 6, 7]}
    envs.reset(seed=0, options=same)
    assert len(memo._values) == 1
    action = np.zeros((4, 16), dtype=int)
    action[:, 3], action[2:, 7] = 1, 1
    _, rewards, *_ = envs.step(action)
    assert len(memo._values) == 3
    assert rewards[0] == rewards[1] != rewards[2] == rewards[3]
    envs.reset(seed=1, options=same)
    assert len(memo._values) == 3


def held(root):
    """Bytes of everything reachable: Python objects, array data, tensor storages."""
    skipped = type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType
    seen, stack, total, storages = set(), [root], 0, {}
    while stack:
        thing = stack.pop()
        if id(thing) in seen or isinstance(thing, skipped):
            continue
        seen.add(id(thing))
        if isinstance(thing, torch.Tensor):
            storages[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
        total += sys.getsizeof(thing)
        stack += gc.get_referents(thing)
    return total + sum(storages.values())


def size(envs, single, steps):
    """Bytes held after some steps of two episodes; the memo is bounded, and no environment's own."""
    for seed in (0, 100):
        envs.reset(seed=seed)
        for action in actions(steps, 1 if single else envs.num_envs, envs.head_slots):
            envs.step(action[0] if single else action)
    envs.workbench.memo.clear()
    return held(envs)


@pytest.mark.parametrize(
    ("model_name", "sizes", "steps"),
    [
        ("bard-gpt2-4x4", (3, 6, 8), 1),
        pytest.param("bard-gpt2-4x4", (16, 40, 48), 2, marks=pytest.mark.slow),
        pytest.param("bard-llama-4x8", (16, 40, 48), 2, marks=pytest.mark.slow),
    ],
)
def test_an_environment_more_costs_under_two_percent_of_the_model(make_vec, small_text, model_name, sizes, steps):
    """Slow: up to a hundred environments play two episodes; a walk over all that they hold takes no time."""
    model = sum(p.numel() * p.element_size() for p in load_model(model_name).model.parameters())
    settings = {**SMALL, "model_name": model_name, "prefix_mb": 0}
    single = gym.make("plasticity/Heads-v1", text=small_text, disable_env_checker=True, **settings).unwrapped
    one = size(single, True, steps)
    few, many, most = (size(make_vec(n, model_name=model_name), False, steps) for n in sizes)
    if sizes[0] >= 16:  # a few environments together hold less than a single one: it would prove nothing
        assert (few - one) / (sizes[0] - 1) < 0.02 * model
        assert (many - one) / (sizes[1] - 1) < 0.02 * model
    widths = [site.output_weight().shape[0] for site in single.workbench.model.blocks]
    text = sum(map(packed_size, widths))  # moments are kept by whole texts
    assert (most - many - text) / (sizes[2] - sizes[1]) < 0.02 * model


def test_gymnasiums_wrappers_and_attributes(make_vec):
    envs = make_vec(2)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert envs.spec.id == "plasticity/Heads-v1"
    wrapped = gym.wrappers.vector.RecordEpisodeStatistics(envs)
    wrapped.reset(seed=0)
    for action in actions(3, 2, 16):
        _, _, done, _, info = wrapped.step(action)
    assert done.all()
    assert info["episode"]["l"].tolist() == [3, 3]
    assert envs.action_masks().shape == (2, 64)
    assert [state.step for state in envs.states] == [3, 3]
    assert envs.seeds == (0, 1)
    drawn = make_vec(2, render_mode="ansi")
    drawn.reset(seed=0)
    assert all(frame.startswith("bard-gpt2-4x4  active 16") for frame in drawn.render())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"train_steps": 1}, "train_steps 1 needs weights of its own.*vectorization_mode='sync'"),
        ({"num_envs": 0}, "num_envs must be a whole number of at least 1"),
        ({"tokens_per_pass": 0}, "tokens_per_pass must be"),
        ({"memory_share": -1}, "memory_share must be at least 0"),
        ({"autoreset_mode": "Never"}, "unknown autoreset_mode 'Never'"),
        ({"render_mode": "human"}, "unknown render_mode 'human'"),
        ({"horizn": 3}, "unexpected keyword argument 'horizn'"),
    ],
)
def test_bad_settings_are_refused(make_vec, kwargs, message):
    with pytest.raises(InputError, match=message):
        make_vec(**kwargs)


def test_bad_calls_are_refused(make_vec):
    envs = make_vec(2)
    with pytest.raises(gym.error.ResetNeeded):
        envs.step(np.zeros((2, 16), dtype=int))
    with pytest.raises(InputError, match="seed holds 3 numbers for 2"):
        envs.reset(seed=[1, 2, 3])
    with pytest.raises(InputError, match="unknown reset option 'price'"):
        envs.reset(options={"price": 1})
    envs.reset(seed=0)
    for wrong in (np.zeros((2, 15), dtype=int), np.zeros((2, 16)), np.full((2, 16), 4)):
        with pytest.raises(InputError, match=r"must be whole numbers of shape"):
            envs.step(wrong)
    with pytest.raises(InputError, match=r"reset_mask must be boolean of shape \(2,\)"):
        envs.reset(options={"reset_mask": np.array([False, False])})
