"""The interquartile mean over boards, against scipy and a plain simulation of the stratified bootstrap."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import trim_mean

from plasticity_env.agents.leaderboard.aggregate import Aggregate, iqm
from plasticity_env.agents.leaderboard.statistics import Results
from plasticity_env.common.errors import InputError
from tests.agents.leaderboard.fake import BOARD, cell, cells


def test_iqm_is_the_trimmed_mean() -> None:
    for count in (1, 3, 4, 9, 36, 37):
        scores = np.random.default_rng(count).standard_normal(count)
        assert iqm(scores) == pytest.approx(trim_mean(scores, 0.25))


def test_scores_are_rises_over_the_references_in_the_same_cell() -> None:
    other = replace(BOARD, model="other")
    boards = [Results(cells({"fisher@4": 1.0, "mine@4": 0.5, "only_here@4": 0.1}))]
    boards.append(Results(cells({"fisher@4": 1.0, "mine@4": 0.7}, board=other)))
    found = Aggregate(boards)
    assert found.players == ["fisher@4", "mine@4"]
    assert len(found.scores) == 6
    assert found.score("fisher@4").value == 1
    assert found.score("mine@4").value == pytest.approx(0.6)  # half of the scores are 0.5, half 0.7
    assert found.rank("mine@4").high == 1
    with pytest.raises(InputError, match="fisher@4"):
        Aggregate([Results(cells({"mine@4": 1.0}))])


def test_interval_is_that_of_seeds_drawn_within_each_share() -> None:
    random = np.random.default_rng(3)
    lines = []
    for share in (0.1, 0.3, 0.5):
        for seed in range(4):
            lines.append(cell("fisher@4", np.full(24, share), share, seed))
            lines.append(cell("mine@4", np.full(24, share * random.uniform(0.4, 1.2)), share, seed))
    found = Aggregate([Results(lines)], replicates=4000)
    runs = np.array(found.scores)[:, 1]  # (3 shares, 4 seeds)
    simulated = [
        trim_mean(np.concatenate([random.choice(line, len(line)) for line in runs]), 0.25) for _ in range(4000)
    ]
    wanted = np.quantile(simulated, [0.025, 0.975])
    assert (found.score("mine@4").low, found.score("mine@4").high) == pytest.approx(tuple(wanted), abs=0.02)
    assert found.score("mine@4").value == pytest.approx(trim_mean(runs, 0.25, axis=None))
