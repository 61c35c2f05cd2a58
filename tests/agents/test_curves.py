"""Learning curves: bands of seeds, and a study that goes on where it was cut."""

from __future__ import annotations

import json

import numpy as np
import pytest

from plasticity_env import InputError
from plasticity_env.agents.studies.curves_config import CurvesConfig
from plasticity_env.agents.studies.curves_figure import band, curves_png, table
from plasticity_env.agents.studies.learning_curves import CELLS, Point, latest, study
from plasticity_env.common.arguments import fill
from tests.conftest import filled


def point(seed, steps, rise, agent="ppo", final=False):
    return Point(agent, seed, steps, (rise, rise), (1.0, 3.0), final)


def test_bands_are_means_of_what_lies_between_the_points(tmp_path):
    points = [point(0, 0, 4.0), point(0, 100, 2.0), point(1, 0, 2.0), point(1, 50, 2.0), point(1, 100, 0.0)]
    steps, mean, deviation, seeds = band(points)
    assert (steps[0], steps[-1], seeds) == (0, 100, 2)
    assert mean[0] == pytest.approx(1.5)
    assert np.interp(75, steps, mean) == pytest.approx((1.25 + 0.5) / 2)
    assert deviation[-1] == pytest.approx(np.std([1.0, 0.0], ddof=1))
    assert table(points) == ["ppo                  0.500 ± 0.707  (2 seeds, 100 steps)"]
    curves_png(points, tmp_path / "curves.png", "fisher", "a model")
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_of_repeated_points_the_last_counts():
    points = [point(0, 10, 4.0), point(0, 10, 2.0), point(0, 10, 9.0, agent="es")]
    assert latest(points, ["ppo"]) == [points[1]]


@pytest.mark.slow
def test_a_finished_training_is_not_repeated_and_another_study_is_refused(tmp_path):
    """Slow: a study trains and evaluates two kinds of agents."""
    config = filled(
        CurvesConfig,
        agents="ppo:linear,es",
        total_timesteps=9,
        evaluate_every=100,
        seeds=1,
        rounds=1,
        held_out=1,
        calibration_blocks=1,
        reward_blocks=1,
        max_length=16,
        output_dir=tmp_path,
    )
    said: list[str] = []
    first = study(config, said.append)
    assert {(each.agent, each.final) for each in first} == {
        ("ppo:linear", False),
        ("ppo:linear", True),
        ("es", False),
        ("es", True),
    }
    assert all(each.steps >= 9 for each in first if each.final)
    lines = (tmp_path / CELLS).read_text(encoding="utf-8")
    assert study(config, said.append) == first
    assert (tmp_path / CELLS).read_text(encoding="utf-8") == lines
    assert json.loads(lines.splitlines()[0])["steps"] == 0
    with pytest.raises(InputError, match="holds a study with max_length 16, not 32"):
        study(fill(config, {"max_length": 32}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"agents": "pppo"}, "unknown agent"), ({"agents": "es:linear"}, "write es"), ({"seeds": 0}, "seeds")],
)
def test_what_cannot_be_studied_is_refused(changes, said):
    with pytest.raises(InputError, match=said):
        CurvesConfig(**changes)
