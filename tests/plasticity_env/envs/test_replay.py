"""Records of episodes: they replay to the same rewards, and forged ones are found out."""

from __future__ import annotations

import pytest

from plasticity_env import EpisodeRecord, InputError, validate
from tests.plasticity_env.envs.playing import IDS, play


@pytest.mark.parametrize("env_id", IDS)
def test_a_record_replays_to_the_same_rewards_and_a_forged_one_does_not(make_env, env_id, tmp_path):
    env = make_env(env_id, flop_price=(1.0, 16.0))
    play(env, 5)
    env.unwrapped.episode_record().save(tmp_path / "episode.json")
    record = EpisodeRecord.load(tmp_path / "episode.json")
    assert validate(record) == pytest.approx(record.rewards, rel=1e-5)
    forged = EpisodeRecord(**{**record.__dict__, "rewards": (record.rewards[0] + 0.01, *record.rewards[1:])})
    with pytest.raises(InputError, match="step 0 of the record claims"):
        validate(forged)
    for claim in (float("inf"), float("nan")):
        forged = EpisodeRecord(**{**record.__dict__, "rewards": (claim, *record.rewards[1:])})
        with pytest.raises(InputError, match=f"step 0 of the record claims a reward of {claim}"):
            validate(forged)
    actions = len(record.actions)
    with pytest.raises(InputError, match=f"{actions} actions and {actions - 1} rewards"):
        validate(EpisodeRecord(**{**record.__dict__, "rewards": record.rewards[1:]}))
