"""Controllers of one board beside searches of another that read as much text."""

from __future__ import annotations

from dataclasses import replace

import pytest

from plasticity_env.agents.leaderboard.report.board_tables import report
from plasticity_env.agents.leaderboard.report.equal_text import pairs, section
from tests.agents.leaderboard.fake import BOARD, cells

PLAYERS = {"fisher@4": 1.0, "ann@4": 0.9, "greedy@4": 0.8, "torch_pruning@1": 2.0}
LARGER = replace(BOARD, calibration_blocks=BOARD.calibration_blocks + BOARD.reward_blocks)


def test_searches_meet_the_controllers_that_read_as_much() -> None:
    found = cells(PLAYERS) + cells({"fisher@4": 0.8, "ann@4": 0.6, "greedy@4": 0.5}, board=LARGER)
    ((board, results),) = pairs(found)
    assert board == LARGER
    assert sorted(results.players) == [
        "ann@4",
        "fisher@4",
        "greedy@4",
    ]  # none twice, and none that reads no reward blocks
    assert results.area_ratio("ann@4", ["greedy@4"]).value == pytest.approx(0.6 / 0.8)
    title, note, table, by_share = section(found)
    assert title.endswith("8 calibration blocks")
    assert "searches score and repair with 4 and minimise the loss on 4 more" in note
    assert "| ann@4 |" in table
    assert "| ann@4 | 0.750 [0.750, 0.750] | 0.750 [0.750, 0.750] | 0.750 [0.750, 0.750] |" in by_share
    assert title in report(found)


@pytest.mark.parametrize(
    "larger",
    [
        replace(LARGER, calibration_blocks=9),  # not as much
        replace(LARGER, test_blocks=12),  # not the same test text
        replace(LARGER, repair="none"),
    ],
)
def test_boards_that_differ_in_more_are_not_put_together(larger) -> None:
    assert not pairs(cells(PLAYERS) + cells({"ann@4": 0.6}, board=larger))
    assert not section(cells(PLAYERS))
