"""The animated episode shows what the environment says, and curves of a board are means of its cells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from plasticity_env import InputError
from plasticity_env.agents.commands.pages_command import PagesConfig, main
from plasticity_env.agents.evaluation.animation import Moment, animation_frames, play_moments, write_gif
from plasticity_env.agents.leaderboard.board_cells import row
from plasticity_env.agents.leaderboard.report import board_curves
from tests.agents.leaderboard.fake import BOARD, SHARES, cells
from tests.conftest import SMALL


def test_an_episode_goes_from_the_dense_model_to_the_share() -> None:
    small = {name: value for name, value in SMALL.items() if name not in ("model_name", "horizon")}
    moments = play_moments("fisher", "bard-gpt2-4x4", 2, 0.5, **small)
    assert [moment.pruned for moment in moments] == [0, 0.25, 0.5]
    assert [moment.flops for moment in moments] == sorted((moment.flops for moment in moments), reverse=True)
    assert moments[0].flops == 1
    assert not np.array_equal(moments[0].frame, moments[2].frame)


def test_the_gif_has_a_frame_a_decision_and_keeps_their_colours(tmp_path: Path) -> None:
    heads = np.full((200, 300, 3), 250, np.uint8)
    moments = [Moment(heads, share, 20 + 8 * share, 1 - share / 2) for share in (0.0, 0.3, 0.6)]
    frames = animation_frames(moments)
    assert {frame.shape for frame in frames} == {(200, 660, 3)}
    assert all(np.array_equal(frame[:, :300], heads) for frame in frames)
    write_gif(frames, tmp_path / "episode.gif")
    with Image.open(tmp_path / "episode.gif") as image:
        assert (image.n_frames, image.size, image.info["loop"]) == (3, (660, 200), 0)  # type: ignore[attr-defined]
        for number, frame in enumerate(frames):
            image.seek(number)
            shown = np.asarray(image.convert("RGB"), dtype=int)
            assert np.abs(shown - frame).mean() < 4


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown only 'nothing'"):
        main(PagesConfig(only="nothing"))
    with pytest.raises(InputError, match="7 curves cannot be told apart"):
        board_curves.board_curves_png(tmp_path / "cells.jsonl", "m", [f"p{n}@1" for n in range(7)], tmp_path / "a.png")


def test_curves_are_the_cells_of_one_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = cells({"fisher@4": 1.0, "ann@4": 0.5, "random@1": 2.0})
    file = tmp_path / "cells.jsonl"
    file.write_text("".join(json.dumps(row(cell)) + "\n" for cell in found))
    drawn: list[dict[str, Any]] = []
    monkeypatch.setattr(board_curves, "frontier_png", lambda results, path: drawn.append(results))
    board_curves.board_curves_png(file, "toy", ["ann@4", "fisher@4"], tmp_path / "a.png", BOARD.calibration_blocks)
    (results,) = drawn
    assert list(dict.fromkeys(entry["controller"] for entry in results["rows"])) == ["ann", "fisher"]
    assert len(results["rows"]) == 2 * 3 * len(SHARES)
    first = next(cell for cell in found if cell.player == "ann@4")
    assert results["rows"][0]["test_ppl"] == pytest.approx(np.exp(np.mean(first.test_losses)))
    assert results["dense"]["test_ppl"] == pytest.approx(np.exp(3.0))
    with pytest.raises(InputError, match="holds no cells of flap@4 on toy"):
        board_curves.board_curves_png(file, "toy", ["flap@4"], tmp_path / "a.png", BOARD.calibration_blocks)
