"""Strategies from one warm-up: the same figures as if each had run alone, and one control arm."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from plasticity_env import InputError
from plasticity_env.agents.cycle_cli.deciding import decider_for
from plasticity_env.cycle import RunRecord
from plasticity_env.cycle.run_comparison import compare_strategies
from plasticity_env.cycle.stages import cycle_rows, cycle_table, head_maps, stage_rows, stage_table, write_stages


@pytest.fixture
def compare(tmp_path, short, small_text):
    def run(strategies, changes=None, **more):
        options = {"decider_for": decider_for, "text": small_text, "pages": False, **more}
        return compare_strategies(short(**(changes or {})), tmp_path / "all", strategies, **options)

    return run


def test_each_strategy_gets_what_it_would_get_alone(compare, run_short, tmp_path):
    """Slow: four short runs with all their checkpoints."""
    found = compare(["fisher", "random", "controller"])
    assert [row.strategy for row in found] == ["fisher", "random", "controller"]
    assert len({row.control_ppl for row in found}) == 1
    alone = run_short(pruning_strategy="random")
    branched = RunRecord.read(tmp_path / "all" / "random")
    assert branched.steps == alone.steps
    assert branched.evaluations == alone.evaluations
    assert branched.events == alone.events
    assert found[1].ppl == alone.summary["final"]["ppl"]
    assert found[1].delta_nll == pytest.approx(alone.summary["final"]["loss"] - alone.summary["control"]["loss"])
    written = json.loads((tmp_path / "all" / "comparison.json").read_text())
    assert [row["strategy"] for row in written["rows"]] == ["fisher", "random", "controller"]
    table = (tmp_path / "all" / "comparison.txt").read_text()
    assert all(name in table for name in ("fisher", "random", "controller", "control "))
    assert (tmp_path / "all" / "comparison.png").stat().st_size > 5_000
    assert not list((tmp_path / "all").glob("*/models/resume*"))


def test_a_comparison_that_was_stopped_goes_on(compare, tmp_path):
    """Slow: two short runs, one of them cut."""

    def say(sentence):
        if sentence.startswith("[random] cycle 1 pruning"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(["fisher", "random"], say=say)
    assert len(json.loads((tmp_path / "all" / "comparison.json").read_text())["rows"]) == 1
    found = compare(["fisher", "random"], resume=True)
    assert len(found) == 2
    assert RunRecord.read(tmp_path / "all" / "random").config["status"] == "finished"
    with pytest.raises(InputError, match="exists already"):
        compare(["fisher"])
    with pytest.raises(InputError, match="holds no comparison"):
        compare(["gradient"], resume=True)
    with pytest.raises(InputError, match="unknown pruning strategy"):
        compare(["fischer"])


def test_decisions_between_phases_have_a_control_arm_in_every_strategy(compare, tmp_path):
    """Slow: two short runs."""
    found = compare(["fisher", "random"], {"decision_every": 2})
    assert found[0].control_ppl == found[1].control_ppl
    first, second = (RunRecord.read(tmp_path / "all" / row.strategy) for row in found)
    assert [row for row in first.steps if row.arm == "control"] == [row for row in second.steps if row.arm == "control"]


def test_a_strategy_that_was_stopped_in_its_first_phase_goes_on(compare, tmp_path):
    def say(sentence):
        if sentence.startswith("[random] goes on at step 3"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(["fisher", "random"], say=say)
    assert len(compare(["fisher", "random"], resume=True)) == 2


def test_stages_are_what_was_evaluated(run_short):
    record = run_short(cycles=2)
    stages = stage_rows(record)
    assert [(row.cycle, row.phase) for row in stages] == [(row.cycle, row.phase) for row in record.phases]
    assert all(a.ppl_after == b.ppl_before for a, b in pairwise(stages))
    assert sum(row.steps for row in stages) == 9
    pruning = next(row for row in stages if row.phase == "pruning")
    assert (pruning.heads_before, pruning.heads_after) == (16, 12)
    cycles = cycle_rows(record)
    assert [row.cycle for row in cycles] == [1, 2]
    assert cycles[0].better is None
    assert cycles[1].over_control == pytest.approx(record.summary["ppl_over_control"])
    assert "pruning" in stage_table(stages)
    assert len(cycle_table(cycles).splitlines()) == 4
    maps = head_maps(record)
    assert maps.count("g") - maps.count("growth") >= 2
    assert all(path.is_file() for path in write_stages(record))
