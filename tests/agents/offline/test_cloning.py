"""Recorded episodes are what was played, and a network that learns from them does what their player did."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch

from plasticity_env import InputError, controllers
from plasticity_env.__main__ import main
from plasticity_env.agents.offline.cast import cast_of_edits
from plasticity_env.agents.offline.clone_config import CloneConfig
from plasticity_env.agents.offline.cloning import agreement, learn, log_likelihoods, read_decisions
from plasticity_env.agents.offline.record_config import RecordConfig
from plasticity_env.agents.offline.recording import Played, episodes
from plasticity_env.agents.offline.route_recording import cast_of_routes
from plasticity_env.agents.training.agent import ENVIRONMENTS
from plasticity_env.controllers import ANNController, HeadNetwork, NetworkConfig
from plasticity_env.dynamic.route_table import RouteTable
from tests.conftest import ALL_SIGNALS, SMALL, filled

QUIET = {**SMALL, **dict.fromkeys(ALL_SIGNALS, False)}
EXPERTS = {"heads": "plasticity", "head_edit": "plasticity", "head_rank": "fisher"}


def dataset_of(env: gym.Env, played: list[Played]) -> SimpleNamespace:
    """What Minari gives back of episodes, as far as it is read here."""
    found = [
        SimpleNamespace(
            observations={name: np.stack(values) for name, values in each.observations.items()},
            actions=np.stack(each.actions),
            rewards=np.array(each.rewards),
        )
        for each in played
    ]
    return SimpleNamespace(spec=SimpleNamespace(env_spec=env.spec), iterate_episodes=lambda: iter(found))


def played_by(make_env, kind: str, quality: str, count: int = 6) -> tuple[gym.Env, list[Played]]:
    share = {"pruned_share": 0.5} if kind == "head_rank" else {}
    env = make_env(ENVIRONMENTS[kind], **share)
    env.action_space.seed(0)
    options = {"sparsity": 0.4} if kind == "head_rank" else {}
    config = filled(RecordConfig, env=kind, quality=quality, episodes=count)
    cast = cast_of_edits(env, controllers.make(EXPERTS[kind], **options), {})
    return env, list(episodes(cast, config))


@pytest.mark.parametrize("quality", ["expert", "mixed", "random"])
@pytest.mark.parametrize("kind", sorted(ENVIRONMENTS))
def test_recorded_episodes_replay_to_the_same_rewards(make_env, kind: str, quality: str) -> None:
    env, found = played_by(make_env, kind, quality, 2)
    for episode in found:
        observation, _ = env.reset(seed=episode.seed)
        for step, action in enumerate(episode.actions):
            assert np.array_equal(episode.observations["heads"][step], observation["heads"])
            assert env.action_space.contains(action if np.ndim(action) else np.int64(action))
            observation, reward, *_, info = env.step(action if np.ndim(action) else int(action))
            assert reward == pytest.approx(episode.rewards[step], abs=1e-6)
            assert info["invalid_actions"] == 0
        assert len(episode.observations["heads"]) == len(episode.rewards) + 1


@pytest.mark.parametrize("quality", ["expert", "mixed", "random"])
def test_recorded_routes_replay_to_the_same_rewards(quality: str) -> None:
    config = RecordConfig(env="route", quality=quality, episodes=12)
    cast = cast_of_routes(config)
    env = cast.env
    env.action_space.seed(0)
    chosen = []
    for episode in episodes(cast, config):
        env.reset(seed=episode.seed)
        (action,) = episode.actions
        best = cast.expert(None)
        _, reward, over, _, info = env.step(int(action))
        assert over
        assert [reward] == episode.rewards
        assert episode.infos["structure"] == [pytest.approx(math.nan, nan_ok=True), info["structure"]]
        chosen.append(int(action) == best)
    assert {"expert": sum(chosen) == 12, "mixed": 0 < sum(chosen) < 12, "random": sum(chosen) < 6}[quality]


def test_the_routes_expert_prunes_more_where_flops_are_dear() -> None:
    cast, shares = cast_of_routes(RecordConfig(env="route")), []
    table = RouteTable.load("bard-llama-6x8")
    for price in (0.01, 100.0):
        cast.env.reset(seed=0, options={"text": 3, "flop_price": price})
        shares.append(table.shares[cast.expert(None)])
    assert shares == [min(share for share in table.shares if share), max(table.shares)]


def test_mixed_episodes_are_of_both_players(make_env) -> None:
    by = {quality: played_by(make_env, "head_rank", quality, 3)[1] for quality in ("expert", "mixed", "random")}
    same = [
        np.array_equal(mixed, expert)
        for one, other in zip(by["mixed"], by["expert"], strict=True)
        for mixed, expert in zip(one.actions[:1], other.actions[:1], strict=True)
    ]
    assert 0 < sum(same) < len(same)
    firsts = zip(by["random"], by["expert"], strict=True)
    assert not any(np.array_equal(one.actions[0], other.actions[0]) for one, other in firsts)


@pytest.mark.parametrize("kind", ["heads", pytest.param("head_edit", marks=pytest.mark.slow), "head_rank"])
def test_a_clone_learns_what_the_expert_does(make_env, kind: str) -> None:
    """Slow for `head_edit`: an episode has a decision for every single edit."""
    env, played = played_by(make_env, kind, "expert")
    decisions = read_decisions(dataset_of(env, played), kind)
    config = CloneConfig(epochs=60, batch_size=4, learning_rate=5e-3, width=16)
    found = learn(decisions, kind, config, {"agent": "behaviour_cloning"})
    fresh = HeadNetwork(NetworkConfig(width=16))
    with torch.no_grad():
        before = -float(log_likelihoods(fresh, decisions, kind).mean())
        after = -float(log_likelihoods(found.controller.network, decisions, kind).mean())
    assert after < 0.6 * before
    assert found.loss < before
    assert 0 <= found.agreement <= 1  # of one episode
    assert agreement(found.controller.network, decisions, kind) > 0.5  # by chance: 0.1, or 0.25 of the edits


def test_likelihoods_are_of_the_choices_that_count(make_env) -> None:
    """A network without preference: each edit is as likely as any that is allowed, each order as any other."""
    network = HeadNetwork(NetworkConfig(width=4, keep_bias=0.0))
    with torch.no_grad():
        network.edits.weight.zero_()
        network.stop.weight.zero_()
    env, played = played_by(make_env, "heads", "random", 1)
    decisions = read_decisions(dataset_of(env, played), "heads")
    allowed = torch.from_numpy(np.stack(played[0].observations["action_mask"][:-1])).sum(-1)  # (T, N)
    assert log_likelihoods(network, decisions, "heads").tolist() == pytest.approx(
        (-allowed.log().sum(-1)).tolist(), abs=1e-4
    )
    env, played = played_by(make_env, "head_rank", "random", 1)
    decisions = read_decisions(dataset_of(env, played), "head_rank")
    gone = [16 - round(active) for active in played[0].infos["active_heads"]]
    expected = [-sum(math.log(16 - place) for place in range(count)) for count in gone[1:]]
    assert log_likelihoods(network, decisions, "head_rank").tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(ENVIRONMENTS))
def test_the_commands_write_a_minari_data_set_and_a_controller(kind: str, tmp_path: Path, capsys) -> None:
    """Slow: two commands over the whole text."""
    minari = pytest.importorskip("minari", reason="Minari is not installed: pip install 'plasticity-env[offline]'")
    small = [
        f"--{name}={value}"
        for name, value in QUIET.items()
        if name not in ("flop_price", "residual_signal", "obs_signal")
    ]
    words = ["record", "--env", kind, "--controller", EXPERTS[kind], "--episodes", "2", "--root", str(tmp_path), *small]
    words += ["--pruned_share", "0.5"] if kind == "head_rank" else []
    main([*words, "--no_residual_signal"])
    name = f"plasticity/{kind}/expert-v0"
    assert name in capsys.readouterr().out
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MINARI_DATASETS_PATH", str(tmp_path))
        dataset = minari.load_dataset(name)
        assert dataset.total_episodes == 2
        about = dataset.storage.metadata["plasticity"]
        assert (about["quality"], about["controller"], about["settings"]["max_length"]) == ("expert", EXPERTS[kind], 32)
        again = dataset.recover_environment()
        for number, episode in enumerate(dataset.iterate_episodes()):
            seen, _ = again.reset(seed=number)
            assert np.array_equal(episode.observations["heads"][0], seen["heads"])
            rewards = [again.step(action if np.ndim(action) else int(action))[1] for action in episode.actions]
            assert rewards == pytest.approx(episode.rewards.tolist(), abs=1e-5)
    with pytest.raises(SystemExit) as left:
        main([*words, "--no_residual_signal"])
    assert left.value.code == 2
    assert f"data set '{name}' exists at" in capsys.readouterr().err
    main(
        ["clone", "--dataset_id", name, "--root", str(tmp_path), "--epochs", "2", "--output_dir", str(tmp_path / "run")]
    )
    assert "controller:" in capsys.readouterr().out
    found = ANNController.load(tmp_path / "run" / "controller")
    assert found.info["dataset"] == name
    assert found.info["env"] == kind


def test_a_missing_package_is_one_sentence_before_any_work(monkeypatch, capsys) -> None:
    monkeypatch.setitem(__import__("sys").modules, "minari", None)
    for command in ("record", "clone"):
        with pytest.raises(SystemExit) as left:
            main([command])
        assert left.value.code == 2
        assert "minari is not installed: pip install 'plasticity-env[offline]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        ("record", ["--env", "head"], "unknown environment 'head'"),
        ("record", ["--quality", "good"], "unknown quality 'good'"),
        ("record", ["--episodes", "0"], "episodes must be a whole number of at least 1"),
        ("record", ["--env", "route", "--max_length", "32"], "--env route reads a table and runs no model"),
        ("record", ["--table", "routes"], "--table is for --env route, this is --env heads"),
        ("record", ["--env", "route", "--controller", "fisher"], "no router at 'fisher'"),
        ("clone", ["--learning_rate", "0"], "learning_rate must lie in (0, 100]"),
        ("clone", ["--epochs", "0"], "epochs must be a whole number of at least 1"),
    ],
)
def test_bad_words_are_one_sentence(command: str, words: list[str], said: str, capsys) -> None:
    with pytest.raises(SystemExit) as left:
        main([command, *words])
    assert left.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_data_sets_of_others_are_refused(tmp_path: Path, capsys, monkeypatch) -> None:
    minari = pytest.importorskip("minari", reason="Minari is not installed: pip install 'plasticity-env[offline]'")
    with pytest.raises(SystemExit):
        main(["clone", "--dataset_id", "plasticity/heads/none-v3", "--root", str(tmp_path)])
    assert "no data set 'plasticity/heads/none-v3'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["record", "--dataset_id", "no name!", "--root", str(tmp_path)])
    assert "must be named like plasticity/heads/mine-v0" in capsys.readouterr().err
    other = SimpleNamespace(spec=SimpleNamespace(env_spec=SimpleNamespace(id="plasticity/Heads-v0")))
    monkeypatch.setattr(minari, "load_dataset", lambda name: other)
    from plasticity_env.agents.offline.minari_files import open_dataset

    with pytest.raises(
        InputError, match=r"was recorded in plasticity/Heads-v0, whose columns this version does not read"
    ):
        open_dataset("plasticity/heads/old-v0")
