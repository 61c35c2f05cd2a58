"""Environments play on models that differ in kind: experts, sinks, soft caps, tuples, a norm over all heads.

Slow: episodes with all signals on eight architectures.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers as tf

from plasticity_env import PlasticModel, load_model, mean_loss
from plasticity_env.model.loading import LoadedModel
from tests.conftest import ALL_SIGNALS, HEADS_ONLY, OTHERS, SMALL

pytestmark = pytest.mark.slow
KINDS = ["falcon", "gemma2", "gpt_oss", "granite", "mixtral", "olmo2", "phi3", "stablelm_norms"]
PRUNE = 1


def loaded(name):
    tokenizer = load_model(SMALL["model_name"]).tokenizer
    config = OTHERS[name]()
    config.vocab_size = len(tokenizer)
    torch.manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3.0)
    return LoadedModel(PlasticModel(model), tokenizer, name)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("repair", ["least_squares", "sequential"])
def test_an_episode_pays_what_the_model_says(make_env, name, repair):
    env = make_env(loaded=loaded(name), repair=repair, **ALL_SIGNALS)
    _, info = env.reset(seed=0)
    bench = env.unwrapped.workbench
    model = bench.model
    total = 0.0
    for units in ([1], [6], [3, 4]):
        action = np.zeros(8, dtype=np.int64)
        action[units] = PRUNE
        observation, reward, *_, after = env.step(action)
        assert np.isfinite(observation["heads"]).all()
        total += reward
    assert after["active_heads"] == 4
    assert model.repaired_sites == [block.index for block in model.blocks]
    kept = np.log(after["flops"] / info["flops"])
    loss = mean_loss(model, bench.blocks("reward", env.unwrapped._state.reward))
    assert after["loss"] == pytest.approx(loss, rel=1e-4)
    assert total == pytest.approx((info["loss"] - loss) - SMALL["flop_price"] * kept, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_a_ranking_is_played_alone_and_by_many(make_env, name):
    env = make_env("plasticity/HeadRank-v1", loaded=loaded(name), repair="least_squares", pruned_share=0.5)
    env.reset(seed=0)
    action = np.linspace(-1, 1, env.action_space.shape[0], dtype=np.float32)
    done, seen = False, []
    while not done:
        _, reward, terminated, truncated, info = env.step(action)
        done = terminated or truncated
        seen.append(reward)
    assert np.isfinite(seen).all()
    assert info["active_heads"] == 4
    assert (name in HEADS_ONLY) == (env.unwrapped.workbench.model.mlps == [])
