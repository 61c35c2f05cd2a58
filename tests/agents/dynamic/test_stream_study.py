"""The study of streams: what it writes beside its rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from plasticity_env.agents.studies.dynamic.stream_study import Options, play
from plasticity_env.agents.watching.run_lines import RunLines
from plasticity_env.common.tracking import TrackingOptions


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
        measure_all=False,
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
    assert [row["structure"] for row in told["decisions"]] == [name for row in rows for name in row["structures"]]
    assert [event["kind"] for event in RunLines(tmp_path).news()] == ["rows"] * 3
