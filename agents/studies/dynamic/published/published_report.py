"""Tables of the published systems: each arm beside the mixture's structure at its own mean FLOPs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from plasticity_env.agents.studies.dynamic.published.arm_cells import ArmCell

RESAMPLES = 10_000
STATIC_GROUP = "static"


def report(cells: Sequence[ArmCell]) -> str:
    """The report in Markdown: a table for each share; an arm has a figure for each draw that is finished."""
    if not cells:
        return "no finished cell of this setting: play the study first"
    draws = sorted({cell.draw for cell in cells})
    curves = {draw: StaticRises([c for c in cells if c.draw == draw and c.group == STATIC_GROUP]) for draw in draws}
    texts, lines = len(cells[0].rises), [f"{cells[0].model}, {len(cells[0].rises)} test texts, {len(draws)} draws."]
    assert all(len(cell.rises) == texts for cell in cells)
    for share in sorted({cell.share for cell in cells if cell.group != STATIC_GROUP}):
        lines += ["", f"### {share:.0%} of the heads, or as many FLOPs", ""]
        lines += [
            "| arm | rise, nats (by draw) | static at these FLOPs | ratio [95%] | FLOPs kept |",
            "|---|---|---:|---:|---:|",
        ]
        mine = [cell for cell in cells if cell.share == share and cell.group != STATIC_GROUP]
        for arm in dict.fromkeys(cell.arm for cell in mine):
            of_arm = sorted((cell for cell in mine if cell.arm == arm), key=lambda cell: cell.draw)
            lines.append(_row(arm, of_arm, curves))
    return "\n".join(lines)


class StaticRises:
    """The rise of every text under the mixture's structure at any FLOPs, linear between those that were played.

    Args:
        cells: Cells of static structures in one draw; the dense model is added.
    """

    def __init__(self, cells: Sequence[ArmCell]) -> None:
        order = sorted(cells, key=lambda cell: cell.kept[0])
        rows = [np.array(cell.rises) for cell in order]
        self._kept = np.array([*(cell.kept[0] for cell in order), 1.0])
        self._rises = np.stack([*rows, np.zeros_like(rows[0])]) if rows else np.zeros((1, 0))

    def at(self, kept: float) -> np.ndarray | None:
        """(N,) rises; None above the dense model's FLOPs or below the least that was played."""
        if len(self._kept) < 2 or not self._kept[0] <= kept <= 1:
            return None
        place = min(int(np.searchsorted(self._kept, kept, side="right")) - 1, len(self._kept) - 2)
        part = (kept - self._kept[place]) / (self._kept[place + 1] - self._kept[place])
        found: np.ndarray = (1 - part) * self._rises[place] + part * self._rises[place + 1]
        return found


def _row(arm: str, cells: Sequence[ArmCell], curves: dict[int, StaticRises]) -> str:
    rises = np.array([cell.rises for cell in cells])  # (draws, N)
    kept = [float(np.mean(cell.kept)) for cell in cells]
    static = [curves[cell.draw].at(spent) for cell, spent in zip(cells, kept, strict=True)]
    said = ", ".join(f"{rise:.4f}" for rise in rises.mean(1))
    if any(rise is None for rise in static):
        return f"| {arm} | {said} | - | - | {np.mean(kept):.4f} |"
    theirs = np.array(static)
    return f"| {arm} | {said} | {theirs.mean():.4f} | {ratio(rises.mean(0), theirs.mean(0))} | {np.mean(kept):.4f} |"


def ratio(mine: np.ndarray, theirs: np.ndarray, resamples: int = RESAMPLES) -> str:
    """The ratio of two (N,) rises' means with the 95% interval of a paired bootstrap over texts.

    A dash where the static rise is not positive, and no interval where it is not in some resample.
    """
    if theirs.mean() <= 0:
        return "-"
    random = np.random.default_rng(0).integers(len(mine), size=(resamples, len(mine)))
    below = theirs[random].mean(1)
    value = f"{mine.mean() / theirs.mean():.2f}"
    if below.min() <= 0:
        return value
    low, high = np.quantile(mine[random].mean(1) / below, (0.025, 0.975))
    return f"{value} [{low:.2f}, {high:.2f}]"
