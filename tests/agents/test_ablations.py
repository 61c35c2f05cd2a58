"""An altered controller sees what is taken away, and only that, as gone."""

from __future__ import annotations

import numpy as np
import pytest

from plasticity_env import HEAD_FEATURES, controllers
from plasticity_env.agents.studies import ablations
from plasticity_env.envs.observation import head_columns
from tests.conftest import ALL_SIGNALS


class Eyes(controllers.Controller):
    """Keeps what it saw."""

    def act(self, observation):
        self.seen = observation["heads"]
        return np.zeros(len(self.seen), dtype=np.float32)


@pytest.fixture
def observation(make_env):
    env = make_env("plasticity/HeadRank-v1", pruned_share=0.5, horizon=2, **ALL_SIGNALS)
    env.reset(seed=1)
    return env.step(np.linspace(-1, 1, 16, dtype=np.float32))[0]


def look(monkeypatch, name, observation):
    eyes = Eyes()
    monkeypatch.setattr(ablations, "_shipped", lambda: eyes)
    player = getattr(ablations, name)()
    player.reset(3)
    player.act(observation)
    return eyes.seen


@pytest.mark.parametrize("name", ["noise", "shuffled"])
def test_signals_move_between_active_heads_and_nothing_else_does(monkeypatch, observation, name):
    before, after = observation["heads"].copy(), look(monkeypatch, name, observation)
    active = before[:, HEAD_FEATURES_INDEX["active"]] > 0.5
    signals = head_columns(ablations.SIGNALS)
    rest = [column for column in range(len(HEAD_FEATURES)) if column not in signals]
    assert np.array_equal(before, observation["heads"])  # the caller's stays as it was
    assert np.array_equal(before[:, rest], after[:, rest])
    assert np.array_equal(before[~active], after[~active])
    assert np.allclose(np.sort(before[active][:, signals], 0), np.sort(after[active][:, signals], 0))
    fisher = HEAD_FEATURES_INDEX["fisher"]
    assert not np.array_equal(before[active, fisher], after[active, fisher])
    order = [int(np.flatnonzero(before[active, fisher] == value)[0]) for value in after[active, fisher]]
    together = np.array_equal(before[active][order][:, signals], after[active][:, signals])
    assert together == (name == "shuffled")


@pytest.mark.parametrize("group", sorted(ablations.GROUPS))
def test_a_group_that_is_gone_tells_no_head_from_another(monkeypatch, observation, group):
    before, after = observation["heads"], look(monkeypatch, f"without_{group}", observation)
    active = before[:, HEAD_FEATURES_INDEX["active"]] > 0.5
    gone = [n for n in HEAD_FEATURES if n.startswith(ablations.GROUPS[group])]
    assert len(gone) >= 1
    assert np.ptp(after[active][:, head_columns(tuple(gone))], axis=0).max() < 1e-6
    kept = head_columns(tuple(name for name in HEAD_FEATURES if name not in gone))
    assert np.array_equal(before[:, kept], after[:, kept])


@pytest.mark.parametrize("group", sorted(ablations.GROUPS))
def test_the_shipped_network_does_not_take_a_group_that_is_gone_for_one_that_was_not_measured(make_env, group):
    observation, _ = make_env("plasticity/HeadRank-v1", pruned_share=0.5, horizon=2, **ALL_SIGNALS).reset(seed=1)
    player = getattr(ablations, f"without_{group}")()
    player.reset(3)
    change = player._change

    def to_zero(heads, seen, random):  # what the mean of z-scores may round to
        change(heads, seen, random)
        names = [name for name in HEAD_FEATURES if name.startswith(ablations.GROUPS[group])]
        heads[:, head_columns(tuple(names))] = 0.0

    player._change = to_zero
    assert np.isfinite(player.act(observation)).all()


def test_the_first_look_is_the_only_one(observation):
    player = ablations.first_look()
    player.reset(0)
    first = player.act(observation)
    changed = observation.but(heads=observation["heads"][::-1].copy())
    assert np.array_equal(player.act(changed), first)
    player.reset(0)
    assert not np.array_equal(player.act(changed), first)


HEAD_FEATURES_INDEX = {name: column for column, name in enumerate(HEAD_FEATURES)}
