"""The pictures show what the rows say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from plasticity_env.agents.evaluation.frontier import controller_colours, frontier_png, frontier_points
from plasticity_env.agents.evaluation.learning_curve import curves_of, learning_curve_png
from plasticity_env.common.errors import InputError


def row(controller: str, sparsity: float | None, seed: int, ppl: float, repair: str = "none") -> dict[str, Any]:
    return {
        "controller": controller,
        "repair": repair,
        "sparsity": sparsity,
        "flop_price": 0.5 if sparsity is None else None,
        "seed": seed,
        "test_loss": float(np.log(ppl)),
        "test_ppl": ppl,
        "delta_nll": 0.1,
        "flops_kept": 0.8 if sparsity is None else 1 - sparsity / 2,
        "active_heads": 3,
        "seconds": 1.0,
        "evaluations": 0,
        "active": [[True, False], [True, True]],
    }


def results(rows: list[dict[str, Any]]) -> dict[str, Any]:
    dense = {"test_loss": 3.4, "test_ppl": 30.0, "flops": 1e9, "heads": 4}
    about = {"command": "python evaluate.py", "machine": "a laptop", "model": "tiny", "dataset": "text"}
    return {**about, "mode": "dummy", "test_blocks": 2, "max_length": 64, "dense": dense, "rows": rows}


def test_points_join_seeds_and_keep_settings_apart() -> None:
    given = [row("taylor", 0.5, 0, 40.0), row("taylor", 0.5, 1, 44.0), row("taylor", 0.2, 0, 33.0)]
    given += [row("learned", None, 0, 35.0), row("taylor", 0.5, 0, 36.0, repair="least squares")]
    points = frontier_points(results(given))
    told = [(point.controller, point.repair, point.setting, point.ppl, point.low, point.high) for point in points]
    assert told == [
        ("taylor", "none", "20% pruned", 33.0, 33.0, 33.0),
        ("taylor", "none", "50% pruned", 42.0, 40.0, 44.0),
        ("taylor", "least squares", "50% pruned", 36.0, 36.0, 36.0),
        ("learned", "none", "own choice at price 0.5", 35.0, 35.0, 35.0),
    ]


@pytest.mark.parametrize("worst", [40.0, 4000.0])
def test_frontier_has_its_size_and_every_colour(tmp_path: Path, worst: float) -> None:
    names = ("random", "taylor", "learned")
    given = [row(name, sparsity, 0, 31.0 + (worst - 31.0) * sparsity) for name in names for sparsity in (0.2, 0.6)]
    given = [{**entry, "test_ppl": entry["test_ppl"] + names.index(entry["controller"])} for entry in given]
    given.append(row("single", None, 0, 32.0))
    frontier_png(results(given), tmp_path / "frontier.png")
    picture = np.asarray(Image.open(tmp_path / "frontier.png").convert("RGB"))
    assert picture.shape == (1000, 1600, 3)
    for colour in controller_colours(results(given)).values():
        rgb = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
        assert (picture == rgb).all(axis=-1).sum() > 50, f"{colour} is not in the picture"


def test_null_is_a_gap_and_other_metrics_are_left_out() -> None:
    rows = [{"global_step": 1, "loss/value": 2.0, "time/fps": 9.0}, {"global_step": 2, "loss/value": None}]
    curves = curves_of(rows)
    assert list(curves) == ["loss/value"]
    assert curves["loss/value"][0] == [1, 2]
    assert np.isnan(curves["loss/value"][1][1])


def test_learning_curve_has_its_size(tmp_path: Path) -> None:
    learning_curve_png(
        [{"global_step": step, "episode/return": step / 10} for step in range(9)], tmp_path / "curve.png"
    )
    assert Image.open(tmp_path / "curve.png").size == (1600, 1000)


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no row"):
        frontier_png(results([]), tmp_path / "frontier.png")
    with pytest.raises(InputError, match="no learning curve"):
        learning_curve_png([{"global_step": 1, "time/fps": 3.0}], tmp_path / "curve.png")
    assert not list(tmp_path.iterdir())
