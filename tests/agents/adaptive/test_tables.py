"""Tables and picture: differences are seed by seed, a page keeps what was written around its marks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image

from plasticity_env import InputError
from plasticity_env.agents.studies.adaptive.study_cells import Cell, StageRecord
from plasticity_env.agents.studies.adaptive.study_figure import study_png
from plasticity_env.agents.studies.adaptive.study_setting import Setting
from plasticity_env.agents.studies.adaptive.study_tables import legend, report

TEXTS = {"home": "plays", "shift": "wiki"}


def cell(arm, seed, home, shift, came_back=0, closed=None, others=None, first=5.0):
    """A cell whose second stage, on the second text, ends at the given losses."""
    start = StageRecord("home", [4.0, 3.0], ["1100"], 0.8, 2, 0, {"home": home, "shift": 7.0}, 0, None, None)
    end = StageRecord(
        "shift", [7.0, 5.0], ["0110"], 0.8, 1, 1, {"home": 4.5, "shift": shift}, came_back, closed, others
    )
    setting = Setting(stages="home,shift", decisions=1)
    return Cell("tiny", setting, arm, seed, TEXTS, {"home": 3.25, "shift": 8.0}, [start, end], 1.0)


CELLS = [
    cell("control", 0, 3.0, 4.0),
    cell("compressed:fisher", 0, 3.5, 5.0),
    cell("rule:fisher", 0, 3.5, 4.75, 1, 5.25, 5.0),
    cell("control", 1, 3.0, 4.0),
    cell("compressed:fisher", 1, 3.5, 6.0),
    cell("rule:fisher", 1, 3.5, 5.25, 1, 6.25, 5.5, first=4.75),
]


def test_figures_and_their_differences():
    text = report(CELLS)
    assert "| arm (dense, untrained: 3.250) | 1 plays | 2 wiki |" in text
    assert "| compressed:fisher | 7.000 ± 0.000 | 5.500 ± 0.707 |" in text  # on wiki
    assert "| rule:fisher - compressed:fisher | +0.000 ± 0.000 | -0.500 ± 0.354 |" in text  # -0.25 and -0.75
    assert "| rule:fisher | 2 wiki | 1.0 | 1.0 | 1.0 | +0.750 ± 0.354 | +0.250 ± 0.000 |" in text
    assert "keep 80.0% to 80.0%" in text


def test_cells_of_two_settings_are_no_table():
    other = replace(CELLS[0], setting=Setting(stages="home,shift", decisions=1, share=0.25))
    with pytest.raises(InputError, match="got 2 of them"):
        report([*CELLS, other])


def test_the_legend_explains_each_kind_once():
    assert [line.split("`")[1] for line in legend(["rule:fisher", "control", "rule:random"]).splitlines()] == [
        "control",
        "rule",
    ]


def test_the_picture(tmp_path):
    study_png(CELLS, tmp_path / "study.png")
    with Image.open(tmp_path / "study.png") as image:
        assert image.size == (1600, 1000)
    with pytest.raises(InputError, match="'once'"):
        study_png(CELLS, tmp_path / "other.png", shown="once")
    with pytest.raises(InputError, match="'once'"):
        study_png(CELLS, tmp_path / "other.png", drawn=["once"])
    with pytest.raises(InputError, match="control arm"):
        study_png([c for c in CELLS if c.arm != "control"], tmp_path / "other.png")
    assert not (tmp_path / "other.png").exists()
