"""The study of masks before and after training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from plasticity_env import InputError
from plasticity_env.agents.studies.train_aware import TrainAware, correlations, main, rank_correlation


def test_rank_correlation_is_spearmans() -> None:
    one = np.array([0.1, 5.0, 2.0, 3.0])
    assert rank_correlation(one, one**3) == pytest.approx(1)
    assert rank_correlation(one, -one) == pytest.approx(-1)
    assert rank_correlation(one, np.array([0.0, 1.0, 2.0, 3.0])) == pytest.approx(0.4)
    assert rank_correlation(np.array([1.0, 1.0, 2.0]), np.array([0.0, 0.0, 1.0])) == pytest.approx(1)  # ties


def test_masks_are_trained_once_and_a_cut_run_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = {"steps": "1,2", "calibration_blocks": 4, "test_blocks": 4, "length": 32, "batch_size": 2, "mlp_blocks": 2}
    main(TrainAware(masks=4, output=tmp_path / "whole.jsonl", **small))
    said = capsys.readouterr().out
    assert said.startswith("4 masks; after repair")
    assert "| 2 | " in said
    cut = tmp_path / "cut.jsonl"
    cut.write_text("".join((tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)[:2]))
    main(TrainAware(masks=4, output=cut, **small))
    assert capsys.readouterr().out == said
    assert cut.read_text() == (tmp_path / "whole.jsonl").read_text()
    main(TrainAware(masks=4, output=cut, report=True, **small))
    assert capsys.readouterr().out == said


def test_too_few_masks_and_odd_steps_are_told() -> None:
    assert "at least 3" in correlations([], [1])
    with pytest.raises(InputError, match="rising whole numbers"):
        TrainAware(steps="5,2")
