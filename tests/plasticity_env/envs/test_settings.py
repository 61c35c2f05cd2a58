"""Settings of an environment: what they take, and what they refuse in one sentence."""

from __future__ import annotations

import json

import numpy as np
import pytest

from plasticity_env import InputError


def test_numpys_numbers_are_plain_ones_in_the_settings(make_env):
    settings = make_env(flop_price=np.float32(4), batch_size=np.int64(2), obs_signal=np.bool_(False)).unwrapped.settings
    assert json.loads(json.dumps(settings.kwargs()))["flop_price"] == 4.0
    assert settings.batch_size == 2
    assert settings.obs_signal is False


def test_settings_are_json_able(make_env):
    env = make_env(flop_price=(1.0, 16.0)).unwrapped
    assert json.loads(json.dumps(env.settings.kwargs())) == env.settings.kwargs()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"mode": "both"}, "unknown mode 'both'"),
        ({"reward": "ppl_per_flops"}, r"did you mean 'ppl_per_flop'"),
        ({"repair": "magic"}, "unknown repair"),
        ({"flop_price": (4, 1)}, "flop_price must"),
        ({"flop_price": -1}, "flop_price must"),
        ({"horizon": 0}, "horizon must be a whole number"),
        ({"max_sparsity": 1.5}, "max_sparsity must"),
        ({"max_sparsity": "half"}, "max_sparsity must be a number"),
        ({"learning_rate": "fast"}, "learning_rate must be a number"),
        ({"learning_rate": 0}, "learning_rate must lie in \\(0, 100\\]"),
        ({"obs_signal": "no"}, "obs_signal must be True or False"),
        ({"repair": ["none"]}, "repair must be a name"),
        ({"calibration_blocks": 10**6}, "more than the"),
        ({"max_length": 4096}, "exceeds the"),
        ({"min_heads_per_layer": 5}, "exceeds the 4 heads"),
        ({"devise": "cpu"}, "unexpected keyword argument"),
        ({"model_name": "nobody/nothing"}, "embedded"),
    ],
)
def test_bad_arguments_are_one_clear_sentence(make_env, kwargs, message):
    with pytest.raises(InputError, match=message):
        make_env(**kwargs)


def test_bad_actions_and_options_are_refused(make_env):
    env = make_env().unwrapped
    env.reset(seed=0)
    with pytest.raises(InputError, match="16 whole numbers from 0 to 3"):
        env.step(np.full(16, 4))
    with pytest.raises(InputError, match="unknown reset option"):
        env.reset(options={"price": 1})
    for blocks in ([10**9], [-1], [0.5], [], "all", 3):
        with pytest.raises(InputError, match="numbers from 0"):
            env.reset(options={"reward": blocks})
    with pytest.raises(InputError, match="stream must be a whole number"):
        make_env(train_steps=1).unwrapped.reset(options={"stream": -1})
    env.reset(options={"flop_price": np.float32(4)})
