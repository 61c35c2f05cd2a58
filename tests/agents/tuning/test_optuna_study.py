"""A study goes on where it was cut, prunes what lags, and finds the better arguments."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from PIL import Image

from plasticity_env.__main__ import main
from plasticity_env.agents.training.train_config import TrainConfig
from plasticity_env.common.arguments import fill
from tests.conftest import SMALL


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[TrainConfig]:
    """Trainings whose return is known: the better, the nearer the rate is to 0.005; a low rate lags from the start."""
    pytest.importorskip("optuna", reason="Optuna is not installed: pip install 'plasticity-env[tune]'")
    from plasticity_env.agents.tuning import optuna_study

    seen: list[TrainConfig] = []

    def learner(config, envs):
        seen.append(config)

        def learn(folder: Path, report) -> None:
            assert folder.is_dir()
            for update in range(4):
                report(update, {"episode/return": -abs(config.ppo.learning_rate - 0.005) * (8 - update / 4)})

        return SimpleNamespace(learn=learn)

    monkeypatch.setattr(optuna_study, "make_environments", lambda config: [])
    monkeypatch.setattr(optuna_study, "find_agent", lambda name: SimpleNamespace(learner=learner))
    return seen


def run(folder: Path, *words: str) -> None:
    main(["tune", "--output_dir", str(folder), "--total_timesteps", "64", *words])


def test_a_study_goes_on_to_the_number_of_trials(trained, tmp_path: Path, capsys) -> None:
    run(tmp_path, "--trials", "3")
    assert len(trained) == 3
    run(tmp_path, "--trials", "6")
    assert len(trained) == 6
    run(tmp_path, "--trials", "6")
    assert len(trained) == 6
    assert "best return" in capsys.readouterr().out.splitlines()[-1]
    best = yaml.safe_load((tmp_path / "best.yaml").read_text())
    rates = [config.ppo.learning_rate for config in trained]
    assert best["ppo"]["learning_rate"] == min(rates, key=lambda rate: abs(rate - 0.005))
    assert (
        fill(TrainConfig(), best).ppo.learning_rate == best["ppo"]["learning_rate"]
    )  # plasticity train --config takes it
    assert Image.open(tmp_path / "study.png").size[0] > 1000
    assert all(config.ppo.total_timesteps == 64 and config.ppo.seed == 1 for config in trained)
    assert not list(tmp_path.glob("trial_*"))
    trials = sorted((tmp_path / "trials").iterdir())
    assert [folder.name for folder in trials] == [f"trial_{number:04d}" for number in range(6)]
    returns = [json.loads(line)["episode/return"] for line in (trials[0] / "metrics.jsonl").read_text().splitlines()]
    assert len(returns) == 4
    study = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["global_step"] for row in study] == list(range(6))
    assert study[0]["trial/value"] == returns[-1]
    table = [json.loads(line) for line in (tmp_path / "decisions.jsonl").read_text().splitlines()]
    assert [row["learning_rate"] for row in table] == rates


@pytest.mark.slow
def test_trials_that_lag_are_pruned_and_a_cut_one_does_not_count(trained, tmp_path: Path) -> None:
    """Slow: SQLite is written to at every report."""
    import optuna

    from plasticity_env.agents.tuning.optuna_study import finished, open_study
    from plasticity_env.agents.tuning.study_config import StudyConfig
    from plasticity_env.agents.tuning.study_picture import importances

    run(tmp_path, "--trials", "9", "--warmup_trials", "2")
    config = StudyConfig(total_timesteps=64, output_dir=tmp_path)
    study = open_study(config)
    states = [trial.state.name for trial in study.trials]
    assert states.count("PRUNED") > 0
    assert states[:2] == ["COMPLETE", "COMPLETE"]
    study.ask()  # a process that was killed leaves it running
    again = open_study(config)
    assert again.trials[-1].state is optuna.trial.TrialState.FAIL
    assert finished(again) == 9
    found = importances(again)
    assert set(found) >= {"learning_rate", "width"}
    assert sum(found.values()) == pytest.approx(1)


def test_wandb_shows_a_study_as_one_group(trained, tmp_path: Path, monkeypatch) -> None:
    from plasticity_env.common import tracking

    places = []
    monkeypatch.setattr(tracking.Tracker, "_open_wandb", lambda self, config, options: places.append((self, options)))
    run(tmp_path / "mine", "--trials", "2", "--track", "--wandb_mode", "offline")
    assert [(tracker._program, told.wandb_group, told.run_name) for tracker, told in places] == [
        ("trial", "mine", "mine-trial_0000"),
        ("trial", "mine", "mine-trial_0001"),
        ("tune", "mine", "mine"),
    ]


def test_what_trials_share_comes_from_a_file(trained, tmp_path: Path, capsys) -> None:
    shared = tmp_path / "train.yaml"
    shared.write_text(yaml.safe_dump({"settings": {"max_length": 32}, "ppo": {"gamma": 0.9}, "seed": 7}))
    run(tmp_path / "study", "--trials", "1", "--train", str(shared))
    assert (trained[0].settings.max_length, trained[0].ppo.gamma, trained[0].ppo.seed) == (32, 0.9, 1)
    shared.write_text("- 1")
    with pytest.raises(SystemExit) as left:
        run(tmp_path / "study", "--trials", "1", "--train", str(shared))
    assert left.value.code == 2
    assert "is not the YAML file of a training" in capsys.readouterr().err


def test_another_study_and_a_locked_storage_are_one_sentence(trained, tmp_path: Path, capsys, monkeypatch) -> None:
    from plasticity_env.agents.tuning import optuna_study

    run(tmp_path, "--trials", "1")
    for words, said in (
        (["--env", "head_edit"], "has env 'heads', not 'head_edit'"),
        (["--seed", "2"], "has seed 1, not 2"),
    ):
        with pytest.raises(SystemExit) as left:
            run(tmp_path, "--trials", "2", *words)
        assert left.value.code == 2
        assert said in capsys.readouterr().err
    monkeypatch.setattr(optuna_study, "PATIENCE", 0.05)
    with sqlite3.connect(tmp_path / "study.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(SystemExit) as left:
            run(tmp_path, "--trials", "2")
        other.execute("ROLLBACK")
    assert left.value.code == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "cannot be used as the study's storage (database is locked)" in said
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "study.db").write_text("not a database, but a text of some length " * 50)
    with pytest.raises(SystemExit) as left:
        run(tmp_path / "other", "--trials", "1")
    assert left.value.code == 2
    assert "cannot be used as the study's storage (file is not a database)" in capsys.readouterr().err
    assert len(trained) == 1


def test_a_missing_package_and_bad_words_are_one_sentence(monkeypatch, capsys, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    for words, said in (
        ([], "optuna is not installed: pip install 'plasticity-env[tune]'"),
        (["--agent", "es"], "unknown agent to tune 'es'"),
        (
            ["--agent", "sb3_maskable_ppo", "--env", "head_rank"],
            "does not train on head_rank: it takes heads, head_edit",
        ),
        (["--trials", "0"], "trials must be a whole number of at least 1"),
    ):
        with pytest.raises(SystemExit) as left:
            run(tmp_path / "study", *words)
        assert left.value.code == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "study").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("agent", "env"), [("ppo", "head_rank"), ("sb3_ppo", "heads")])
def test_real_trainings_are_trials(agent: str, env: str, tmp_path: Path, capsys) -> None:
    """Slow: two trainings over the whole text."""
    pytest.importorskip("optuna", reason="Optuna is not installed: pip install 'plasticity-env[tune]'")
    shared = {name: SMALL[name] for name in ("max_length", "calibration_blocks", "reward_blocks")}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump({**shared, "residual_signal": False, "envs_per_model": 2}))
    words = ["--agent", agent, "--env", env, "--trials", "2", "--train", str(tmp_path / "train.yaml")]
    main(["tune", "--output_dir", str(tmp_path / "study"), "--total_timesteps", "16", *words])
    assert "2 trials and 0 pruned ones, best return" in capsys.readouterr().out
