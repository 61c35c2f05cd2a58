"""The benchmark of engines: a row each, against one environment here."""

from __future__ import annotations

import pytest

from plasticity_env import InputError
from plasticity_env.agents.benchmarks.bench_engines import bench_engines, engine_rows
from plasticity_env.agents.benchmarks.bench_options import Options


def test_every_engine_has_a_row(small_text):
    rows = list(bench_engines("bard-gpt2-4x4", small_text, 2, [], sequences=4, rounds=2))
    assert [(row.engine, row.environments, row.processes) for row in rows] == [
        ("subprocess", 2, 2),
        ("vector", 2, 1),
        ("local", 1, 1),
    ]
    for row in rows:
        assert row.sample_s_range[0] <= row.sample_s <= row.sample_s_range[1]
        assert row.over_local_range[0] <= row.over_local <= row.over_local_range[1]
        assert row.cpu_s > 0  # processes below this one count
    assert rows[-1].over_local == rows[-1].cpu_over_local == 1


@pytest.mark.slow
def test_ray_is_one_of_them(small_text):
    """Slow: Ray starts, and so do its worker processes."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")
    rows = {row.engine: row for row in bench_engines("bard-gpt2-4x4", small_text, 2, [0], sequences=4, rounds=1)}
    assert rows["ray, 0 runners"].environments == 2
    assert rows["ray, 0 runners"].cpu_s > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"envs": "0"}, "--envs wants whole numbers of at least 1"),
        ({"runners": "1.5"}, "--runners wants whole numbers"),
    ],
)
def test_numbers_that_are_none_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        next(engine_rows(Options(**options)))
