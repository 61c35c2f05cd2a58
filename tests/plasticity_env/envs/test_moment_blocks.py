"""Fits on blocks of their own: disjoint, drawn by the seed, and prices on text that the fit did not read."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from plasticity_env import InputError, load_model, load_text
from plasticity_env.envs.replay import validate
from plasticity_env.envs.settings import LABELS
from plasticity_env.repair import repair_sites
from plasticity_env.signals.measure import gather, log_probs, mean_loss, measure, measure_many
from plasticity_env.signals.residual import model_projectors

SETTINGS = {"max_length": 32, "calibration_blocks": 4, "moment_blocks": 24, "reward_blocks": 4, "horizon": 3}


@pytest.fixture(scope="module")
def env():
    return gym.make("plasticity/HeadRank-v1", pruned_share=0.5, **SETTINGS).unwrapped


def state_of(env):
    return env.get_state()["episode"]


def test_the_blocks_of_a_draw_are_disjoint_and_draws_differ(env):
    drawn = []
    for seed in range(4):
        env.reset(seed=seed)
        state = state_of(env)
        assert len(state.moments) == 24
        assert len(state.calibration) == 4
        assert not set(state.moments) & set(state.calibration)
        drawn.append((state.moments, state.calibration))
    assert len({moments for moments, _ in drawn}) == len({calibration for _, calibration in drawn}) == 4


def test_scores_are_prices_on_text_that_the_fit_did_not_read(env):
    env.reset(seed=1)
    state, bench = state_of(env), env.workbench
    seen = state.measurement.signals
    model = load_model("bard-gpt2-4x4").model
    statistics = gather(model, bench.blocks("calibration", state.moments))
    wanted = measure(
        model, bench.blocks("calibration", state.calibration), projectors=model_projectors(model, statistics)
    )
    for name in ("gradient", "fisher", "token_fisher", "kfac", "stepwise"):
        torch.testing.assert_close(seen[f"residual_{name}"], wanted[f"residual_{name}"], rtol=1e-3, atol=1e-7)
        assert torch.equal(seen[f"crossfit_{name}"], seen[f"residual_{name}"])
    in_sample = measure(
        model,
        bench.blocks("calibration", state.calibration),
        projectors=model_projectors(model, gather(model, bench.blocks("calibration", state.calibration))),
    )
    assert float(in_sample.residual_kfac.sum()) < 0.8 * float(seen.residual_kfac.sum())  # memorised: far too cheap


def test_repair_is_fitted_on_the_moment_blocks(env):
    env.reset(seed=2)
    env.step(np.linspace(0, 1, env.head_slots, dtype=np.float32))
    state, bench = state_of(env), env.workbench
    model = load_model("bard-gpt2-4x4").model
    model.set_active(state.active)
    repair_sites(model, "least_squares", gather_dense(model, bench.blocks("calibration", state.moments)))
    assert not bool(state.active.all())
    assert state.measurement.loss == pytest.approx(mean_loss(model, bench.blocks("reward", state.reward)), rel=1e-4)


def gather_dense(model, ids):
    with model.open_gates():
        return gather(model, ids)


@pytest.mark.slow
def test_an_episode_is_replayed_with_its_blocks(env):
    """Slow: two episodes with all scores."""
    env.reset(seed=3)
    for _ in range(3):
        env.step(np.random.default_rng(0).random(env.head_slots, dtype=np.float32))
    record = env.episode_record()
    assert record.options["moments"] == list(state_of(env).moments)
    validate(record, rel_tol=1e-3)


@pytest.mark.slow
def test_the_vector_environment_agrees(env):
    """Slow: two environments are measured together, then one by one, with all scores."""
    vector = gym.make_vec("plasticity/HeadRank-v1", num_envs=2, pruned_share=0.5, **SETTINGS)
    vector.reset(seed=[5, 6])
    scores = np.random.default_rng(1).random((2, env.head_slots), dtype=np.float32)
    _, rewards, *_ = vector.step(scores)
    alone = []
    for seed, own in zip((5, 6), scores, strict=True):
        env.reset(seed=seed)
        alone.append(env.step(own)[1])
    np.testing.assert_allclose(rewards, alone, rtol=1e-3, atol=1e-5)
    vector.close()


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match="calibration_blocks 16 and moment_blocks 100000 are more than the"):
        gym.make("plasticity/Heads-v1", moment_blocks=100_000)
    env = gym.make("plasticity/Heads-v1", max_length=32, calibration_blocks=4, reward_blocks=4)
    with pytest.raises(InputError, match="make the environment with moment_blocks above 0"):
        env.reset(seed=0, options={"moments": [1, 2]})


def test_texts_split_by_document_are_drawn_over_documents(tmp_path):
    prose = "It was a bright cold day in April, and the clocks were striking thirteen. " * 6
    path = tmp_path / "text.txt"
    path.write_text("".join(f" = Title {n} = \n{prose}{n}\n" for n in range(32)))
    model = load_model("bard-gpt2-4x4")
    old = gym.make("plasticity/Heads-v0", dataset=str(path), max_length=32, calibration_blocks=4, reward_blocks=4)
    new = gym.make("plasticity/Heads-v1", dataset=str(path), max_length=32, calibration_blocks=4, reward_blocks=4)
    assert old.unwrapped.settings.text_split == "leading"
    assert new.unwrapped.settings.text_split == "documents"
    new.reset(seed=0)
    documents = load_text(path, model.tokenizer, block_size=32).documents("calibration")
    assert documents is not None
    assert len(documents[list(state_of(new.unwrapped).calibration)].unique()) == 4


@pytest.mark.slow
def test_slopes_of_sampled_labels_are_those_of_the_models_own_tokens():
    """At every token they average to 0 over draws; the loss stays the text's, and the same text draws the same tokens.

    Slow: three measurements with all scores.
    """
    settings = {"max_length": 32, "calibration_blocks": 8, "reward_blocks": 2}
    data, sampled = (gym.make("plasticity/Heads-v1", labels=labels, **settings).unwrapped for labels in LABELS)
    for env in (data, sampled):
        env.reset(seed=0)
    ours, theirs = (state_of(env).measurement.signals for env in (data, sampled))
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-6)
    assert torch.equal(ours.entropy, theirs.entropy)
    assert not torch.allclose(ours.fisher, theirs.fisher, rtol=0.05)
    again = gym.make("plasticity/Heads-v1", labels="sampled", **settings).unwrapped
    again.reset(seed=0)
    torch.testing.assert_close(state_of(again).measurement.signals.fisher, theirs.fisher, rtol=1e-3, atol=1e-9)


@pytest.mark.slow
def test_the_true_fisher_is_the_curvature_of_the_divergence():
    """Mean squared slopes of sampled labels against the second derivative of KL(model at gate 1 || model at gate g) in g.

    Slow: 4,096 sequences, so that the draws' noise is small.
    """
    loaded = load_model("bard-gpt2-4x4")
    model = loaded.model
    ids = load_text("shakespeare", loaded.tokenizer, block_size=2).blocks("test")[
        :4096
    ]  # one token each: slopes of tokens
    gates = torch.ones(1, *model.shape)
    (seen,) = measure_many(model, ids[None], gates, batch_size=512, obs=False, sampled=True)
    head, step = int(seen.fisher.flatten().argmax()), 0.05
    with torch.no_grad():
        before = log_probs(model, ids)
        curvature = 0.0
        for sign in (1, -1):
            gate = gates[0].clone()
            gate.view(-1)[head] += sign * step
            with model.using(gate):
                after = log_probs(model, ids)
            curvature += float((before.exp() * (before - after)).sum(-1).mean()) / step**2
    assert float(seen.fisher.flatten()[head]) == pytest.approx(curvature, rel=0.15)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": "true"}, "unknown labels 'true'"),
        ({"text_split": "half"}, "unknown text_split 'half'"),
        ({"moment_blocks": -1}, "moment_blocks must be"),
    ],
)
def test_values_are_checked(settings, message):
    with pytest.raises(InputError, match=message):
        gym.make("plasticity/Heads-v1", **settings)


def test_neurons_are_in_order_unless_one_says_otherwise():
    common = {"units": "heads+mlp", "mlp_blocks": 2, "max_length": 32, "calibration_blocks": 2, "reward_blocks": 2}
    assert gym.make("plasticity/Heads-v1", **common).unwrapped.settings.neuron_order == "kfac"
    assert gym.make("plasticity/Heads-v0", **common).unwrapped.settings.neuron_order == "stored"
    loaded = load_model("bard-gpt2-4x4", mlp_blocks=2)
    gym.make("plasticity/Heads-v1", loaded=loaded, neuron_order="token_fisher", **common)
    assert gym.make("plasticity/Heads-v1", loaded=loaded, **common).unwrapped.settings.neuron_order == "token_fisher"
    assert (
        gym.make("plasticity/Heads-v1", max_length=32, calibration_blocks=2).unwrapped.settings.neuron_order == "stored"
    )
