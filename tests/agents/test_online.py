"""The online learner: exact probabilities, a step in the right direction, and a problem with a known answer."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
import torch

from plasticity_env import InputError
from plasticity_env.agents.online.online import OnlineConfig, OnlineLearner
from plasticity_env.controllers import ANNController, HeadNetwork, NetworkConfig
from plasticity_env.envs.observation import GLOBAL_FEATURES, HEAD_FEATURES, Observation, head_columns


def learner(seed=0, **options):
    torch.manual_seed(seed)
    return OnlineLearner(ANNController(HeadNetwork(NetworkConfig(width=16))), OnlineConfig(seed=seed, **options))


def observation(heads, seed=0, mask=None):
    random = np.random.default_rng(seed)
    if mask is None:
        mask = np.ones((heads, 4), dtype=np.int8)
        mask[:, 1:] = random.integers(0, 2, (heads, 3))
    values = {
        "heads": random.standard_normal((heads, len(HEAD_FEATURES))).astype(np.float32),
        "globals": random.standard_normal(len(GLOBAL_FEATURES)).astype(np.float32),
        "action_mask": mask,
    }
    return Observation("heads", values)


def test_log_probabilities_are_those_of_brute_force():
    agent, seen = learner(), observation(3, seed=2)
    seen["action_mask"][0] = [1, 1, 0, 0]
    logits, _ = agent.controller._logits(seen)
    logits = logits.double().numpy()
    total = 0.0
    for edits in itertools.product(range(4), repeat=3):
        found = agent.log_prob(seen, np.array(edits))
        expected = 0.0
        for head, edit in enumerate(edits):
            allowed = seen["action_mask"][head].astype(bool)
            weight = np.exp(logits[head]) * allowed
            with np.errstate(divide="ignore"):
                expected += np.log(weight[edit] / weight.sum())
        if np.isfinite(expected):
            assert found == pytest.approx(expected, abs=1e-5)
            total += np.exp(found)
        else:
            assert found < -1e6
    assert total == pytest.approx(1.0, abs=1e-5)


def test_a_choice_is_allowed_and_says_its_probability():
    agent = learner()
    for seed in range(30):
        seen = observation(6, seed)
        choice = agent.choose(seen)
        assert seen["action_mask"][np.arange(6), choice.edits].all()
        picked = choice.probabilities[np.arange(6), choice.edits]
        assert choice.log_prob == pytest.approx(float(np.log(picked).sum()), abs=1e-4)
        assert choice.log_prob == pytest.approx(agent.log_prob(seen, choice.edits), abs=1e-5)
        assert np.all(choice.probabilities[seen["action_mask"] == 0] == 0)


@pytest.mark.parametrize("reward", [1.0, -1.0])
def test_a_step_makes_what_paid_likelier_and_what_cost_rarer(reward):
    agent = learner(entropy_bonus=0.0, learning_rate=1e-3)
    agent.choose(observation(5, mask=np.ones((5, 4), dtype=np.int8)))
    lesson = agent.learn(reward)
    assert (lesson.log_prob_after - lesson.log_prob) * reward > 0
    assert lesson.advantage == np.sign(reward)  # one deviation is all that is known of their size


def test_the_gradient_is_that_of_the_policy():
    agent, seen = learner(entropy_bonus=0.0), observation(4, mask=np.ones((4, 4), dtype=np.int8))
    edits = agent.choose(seen).edits
    bias = agent.network.edits.bias
    expected = []
    for index in range(4):
        found = []
        for shift in (1e-2, -1e-2):
            with torch.no_grad():
                bias[index] += shift
            found.append(agent.log_prob(seen, edits))
            with torch.no_grad():
                bias[index] -= shift
        expected.append((found[0] - found[1]) / 2e-2 / len(edits))
    caught = {}
    bias.register_hook(lambda gradient: caught.update(gradient=-gradient.clone()))
    agent.learn(0.5)  # the advantage of a first reward is 1
    assert torch.allclose(caught["gradient"], torch.tensor(expected), atol=1e-3)


@pytest.mark.parametrize("gone", [[False, True, False, True], [True] * 4])
def test_edits_that_were_taken_back_earn_nothing(gone):
    """The step is that of the edits that stayed; where none stayed there is none."""
    agent, other = (learner(entropy_bonus=0.0) for _ in range(2))
    seen, back = observation(4, mask=np.ones((4, 4), dtype=np.int8)), torch.tensor(gone)
    edits = torch.from_numpy(agent.choose(seen).edits)[None]
    log_probs = other._policy(seen)[0].log_prob(edits)[0]
    (-log_probs[~back].sum() / 4).backward()  # the advantage of a first reward is 1
    caught = {}
    agent.network.edits.bias.register_hook(lambda gradient: caught.update(gradient=gradient.clone()))
    agent.take_back(back)
    copy = learner(entropy_bonus=0.0)
    copy.load_state_dict(agent.state_dict())  # a run that is cut before it is paid
    lesson = agent.learn(0.5)
    assert torch.allclose(caught["gradient"], other.network.edits.bias.grad, atol=1e-6)
    assert bool(caught["gradient"].any()) == (not all(gone))
    assert lesson.log_prob == pytest.approx(float(log_probs.detach()[~back].sum()), abs=1e-5)
    assert copy.learn(0.5) == lesson


def test_rewards_are_compared_with_their_running_mean():
    agent = learner()
    seen, baseline, square = observation(3), 0.0, None
    for reward in (0.4, -0.2, 3.0, 0.1):
        agent.choose(seen)
        lesson = agent.learn(reward)
        deviation = reward - baseline
        square = deviation**2 if square is None else 0.8 * square + 0.2 * deviation**2
        assert lesson.baseline == pytest.approx(baseline)
        assert lesson.advantage == pytest.approx(np.clip(deviation / np.sqrt(square), -3, 3))
        baseline = 0.8 * baseline + 0.2 * reward
    assert agent.learn(1.0) is None  # nothing was chosen since


def test_it_learns_which_heads_to_prune():
    heads, column = 8, head_columns(("fisher_z",))[0]
    mask = np.zeros((heads, 4), dtype=np.int8)
    mask[:, :2] = 1

    def worth(seen):  # pruning an unimportant head pays, pruning an important one costs
        return np.where(seen["heads"][:, column] > 0, -1.0, 1.0)

    def expected(agent):
        seen = [observation(heads, 1000 + seed, mask) for seed in range(20)]
        return np.mean([(agent.choose(each).probabilities[:, 1] * worth(each)).sum() for each in seen])

    torch.manual_seed(0)
    config = NetworkConfig(("fisher_z", "gradient_z", "entropy_z", "depth"), width=16)
    agent = OnlineLearner(ANNController(HeadNetwork(config)), OnlineConfig(seed=0, learning_rate=0.01))
    before = expected(agent)
    for seed in range(250):
        seen = observation(heads, seed, mask)
        choice = agent.choose(seen)
        agent.learn(float(((choice.edits == 1) * worth(seen)).sum()))
    after = expected(agent)
    assert after > before + 1.2  # 4 at best; 1.5 to 3.1 over seeds


def test_a_run_repeats_and_goes_on_from_its_state():
    def play(agent, seeds):
        out = []
        for seed in seeds:
            out.append(agent.choose(observation(5, seed)).edits.tolist())
            agent.learn(float(np.sin(seed)))
        return out

    whole, half = learner(3), learner(3)
    expected = play(whole, range(8))
    assert play(half, range(4)) == expected[:4]
    choice = half.choose(observation(5, 4))  # cut between a choice and its reward
    file = io.BytesIO()
    torch.save(half.state_dict(), file)
    file.seek(0)
    rest = learner(7)
    rest.load_state_dict(torch.load(file, weights_only=True))
    assert choice.edits.tolist() == expected[4]
    assert rest.controller.info["lessons"] == half.controller.info["lessons"] == 4
    rest.learn(float(np.sin(4)))
    assert play(rest, range(5, 8)) == expected[5:]
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, rest.network.state_dict()[name])


def test_without_a_rate_nothing_is_learned():
    agent = learner(learning_rate=0.0)
    before = {name: value.clone() for name, value in agent.network.state_dict().items()}
    agent.choose(observation(4))
    agent.learn(1.0)
    assert all(torch.equal(value, before[name]) for name, value in agent.network.state_dict().items())


def test_bad_input():
    for options in ({"learning_rate": -1.0}, {"entropy_bonus": -0.1}, {"baseline_decay": 1.0}, {"max_grad_norm": 0.0}):
        with pytest.raises(InputError):
            OnlineConfig(**options)
    agent = learner()
    agent.choose(observation(3))
    with pytest.raises(InputError, match="finite"):
        agent.learn(float("nan"))
    torch.manual_seed(0)
    other = OnlineLearner(ANNController(HeadNetwork(NetworkConfig(width=8))))
    with pytest.raises(InputError, match="shape"):
        agent.load_state_dict(other.state_dict())
