"""The study of streams: what it writes beside its rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from plasticity_env.agents.studies.dynamic.published.stream_players import ProbeStream, RemoverStream
from plasticity_env.agents.studies.dynamic.stream_arms import WithoutMeasuring
from plasticity_env.agents.studies.dynamic.stream_study import (
    CUSUM,
    Options,
    in_time,
    page_of,
    play,
    play_stream,
    played_row,
    table,
    trained,
)
from plasticity_env.agents.watching.run_lines import RunLines
from plasticity_env.common.tracking import TrackingOptions
from plasticity_env.envs.stream_bench import StreamBench
from plasticity_env.envs.stream_env import MEASURE, StreamEnv
from plasticity_env.envs.stream_settings import StreamSettings


@pytest.mark.slow
def test_each_stream_is_an_episode_whose_steps_are_its_chunks(tmp_path: Path) -> None:
    """Slow: a bank is fitted."""
    options = Options(
        model_name="bard-gpt2-4x4",
        datasets=("shakespeare", "generated:json"),
        output=tmp_path / "rows.jsonl",
        seeds=1,
        chunks=5,
        stage=(1, 3),
        max_length=24,
        fit_blocks=4,
        measure_every=(2,),
        tracking=TrackingOptions(tensorboard=False),
    )
    rows = play(options)
    assert play(options) == rows
    told = {
        name: [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("metrics", "heads", "episodes", "decisions")
    }
    assert [row["model"] for row in told["episodes"]] == [row["arm"] for row in rows]
    for row, metrics, heads, episode in zip(rows, told["metrics"], told["heads"], told["episodes"], strict=True):
        assert metrics[f"{row['arm']}/rise"] == row["rise"]
        assert [step["note"].partition(": ")[2] for step in episode["steps"]] == row["structures"]
        assert np.allclose(np.mean([step["active"] for step in episode["steps"]], 0), heads["active"])
    assert np.all(np.array(told["heads"][0]["active"]) == 1)  # the dense arm
    measured = next(row for row in rows if row["arm"] == "measure before every 2. chunk")
    assert measured["structures"] == ["measured"] * 4  # the first chunk runs before anything is decided
    assert [row["structure"] for row in told["decisions"]] == [name for row in rows for name in row["structures"]]
    assert [event["kind"] for event in RunLines(tmp_path).news()] == ["rows"] * 3


def test_a_stream_of_documents_of_one_kind_stands_against_the_static_structure(tmp_path: Path) -> None:
    """A file of one kind: no mixture, and the stage oracle is the static structure."""
    options = Options(
        model_name="bard-gpt2-4x4",
        datasets=("shakespeare",),
        output=tmp_path / "rows.jsonl",
        seeds=2,
        chunks=4,
        stage=(2, 2),
        max_length=24,
        fit_blocks=4,
        only_measure=True,
        tracking=TrackingOptions(tensorboard=False),
    )
    said = table(play(options)).splitlines()
    assert said[0].split(" | ")[3] == "over static (by stream)"
    assert [line.split(" | ")[0] for line in said[2:]] == [
        "| static shakespeare@0.5",
        "| measure before every 1. chunk",
    ]
    assert said[2].split(" | ")[3] == "1.00 (1.00, 1.00)"


def row_of(arm: str, seed: int, rise: float, structures: str) -> dict[str, object]:
    """A row over the kinds a, a, b, b, b, a, whose structures are named by a letter each."""
    names = [f"{letter}@0.5" for letter in structures]
    return {"arm": arm, "seed": seed, "rise": rise, "flops_kept": 0.8, "kinds": list("aabbba"), "structures": names}


def test_the_table_says_how_soon_a_stage_runs_under_its_own_structure() -> None:
    assert in_time(row_of("nearest texts", 0, 0.1, "aaabba")) == 1  # the last stage has one chunk
    assert in_time(row_of("nearest texts", 0, 0.1, "aaaaba")) == 0
    assert in_time(row_of("nearest texts", 0, 0.1, "aaaaba"), within=3) == 1


def test_a_page_keeps_what_stands_around_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Streams\n")
    for shown in ("| one |", "| two |"):
        page_of(page, "folder/small.gguf").renew(shown)
    text = page.read_text()
    assert text.startswith("# Streams\n")
    assert "| one |" not in text
    assert text.count("streams of small") == 2


def test_trainings_of_an_algorithm_are_one_arm_and_stand_against_the_drift_detector() -> None:
    rows = []
    for seed in range(2):
        rows += [row_of("static mixture@0.5", seed, 0.4, "mmmmmm"), row_of("stage oracle", seed, 0.2, "aabbba")]
        rows += [row_of(CUSUM, seed, 0.38, "mmmmmm"), row_of("static a@0.5", seed, 0.9, "aaaaaa")]
        rows += [row_of(f"PPO {number}", seed, 0.3 + 0.01 * number, "aaabba") for number in range(3)]
    said = table(rows)
    assert "| PPO | 0.310, 0.310 | 0.3100 | 0.55 | 100% | 0.8000 |" in said
    assert "| static mixture@0.5 | 0.400, 0.400 | 0.4000 | 1.00 | 0% | 0.8000 |" in said
    assert "static a@0.5" not in said
    assert "PPO less CUSUM, then measure: -0.0700 nats [-0.0800, -0.0600], 3 trainings on 2 streams" in said


def test_published_ways_make_masks_of_their_own(tmp_path: Path) -> None:
    """Probe Pruning's history moves with the stream and begins anew with the next; RAP's agent keeps the FLOPs it is given."""
    settings = StreamSettings(
        model_name="bard-gpt2-4x4",
        datasets=("shakespeare", "generated:json"),
        chunks=4,
        stage=2,
        max_length=24,
        fit_blocks=4,
    )
    bench = StreamBench(settings)
    stream = bench.source.drawn(np.random.default_rng(0))
    probe = ProbeStream(bench)
    before = [past.clone() for past in probe._history]
    assert probe.play(stream) == probe.play(stream)
    assert all(torch.equal(past, own) for past, own in zip(before, probe._history, strict=True))
    row = played_row(bench, probe, tuple(stream))
    assert len(row["rises"]) == len(row["kinds"]) == 3
    assert row["flops_kept"] == pytest.approx(bench.flops_kept[1], abs=0.05)
    remover = RemoverStream(bench, 256, 0)
    losses, kept = remover.play(tuple(stream))
    assert kept[0] == 1
    assert losses[0] == pytest.approx(bench.run(*stream[0], bench.bank[0]).loss, abs=1e-4)
    assert kept[1:] == [pytest.approx(bench.flops_kept[1], abs=0.1)] * 3


def test_an_agent_that_never_measures_learns_from_few_forwards(tmp_path: Path) -> None:
    settings = StreamSettings(
        model_name="bard-gpt2-4x4",
        datasets=("shakespeare", "generated:json"),
        chunks=4,
        stage=2,
        max_length=24,
        fit_blocks=4,
    )
    bench = StreamBench(settings)
    options = Options(train_steps=64, train_chunks=3, train_seeds=1, learners=("DQN",), learn_measuring=False)
    arms = trained(options, bench)
    assert list(arms) == ["DQN 0"]
    env = StreamEnv(bench=bench)
    row, _ = play_stream(env, arms["DQN 0"], 0)
    assert "measured" not in row["structures"]
    wrapped = WithoutMeasuring(env)
    assert [wrapped.action(action) for action in range(wrapped.action_space.n)] == [
        action for action in range(env.action_space.n) if action != MEASURE
    ]
