"""The study in one picture: loss beside the control arm's through the stages, and one arm's heads over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from plasticity_env.agents.studies.adaptive.study import CONTROL
from plasticity_env.agents.studies.adaptive.study_cells import Cell
from plasticity_env.agents.studies.adaptive.study_tables import Cells
from plasticity_env.common.errors import InputError
from plasticity_env.plots.charts import PALETTE, blank_figure, save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def study_png(cells: Sequence[Cell], path: Path, shown: str | None = None, drawn: Sequence[str] | None = None) -> None:
    """Draw the study.

    Above, an arm's loss minus the control arm's on each stage's reward blocks, after every decision: mean over seeds, band
    from lowest to highest. Below, which heads of one arm are active when, for its first seed.

    Args:
        cells: Cells of one model and setting.
        path: The picture.
        shown: The arm whose heads are drawn; the first that brings heads back when None.
        drawn: Arms that have a curve; all when None.

    Raises:
        InputError: No control arm, or no other arm, or ``shown`` is not among them.
    """
    found = Cells(cells)
    arms = arms_to_draw(found.arms, shown, drawn)
    if shown is None:
        shown = next((arm for arm in arms if _returns(found, arm)), arms[0])
    figure = blank_figure()
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    for index, arm in enumerate(drawn or arms):
        _draw_arm(above, found, arm, PALETTE[index % len(PALETTE)], "-" if index < len(PALETTE) else "--")
    above.axhline(0.0, color="black", linewidth=0.8, linestyle=":")
    above.set_ylabel("NLL minus the control arm's\n(nats, reward blocks of the stage)")
    above.legend(ncols=3, fontsize=8, frameon=False, loc="upper left")
    above.grid(alpha=0.25)
    _draw_heads(below, found, shown)
    for panel in (above, below):
        for stage in range(1, len(found.setting.path)):
            panel.axvline(stage * found.setting.decisions + 0.5, color="grey", linewidth=0.8)
        panel.spines[["top", "right"]].set_visible(False)
    for stage, domain in enumerate(found.setting.path):
        middle = (stage + 0.5) * found.setting.decisions + 0.5
        above.annotate(found.texts[domain], (middle, 1.01), xycoords=("data", "axes fraction"), ha="center", fontsize=9)
    below.set_xlabel("decision")
    figure.suptitle(
        f"{found.model}, {found.setting.share:.0%} of heads pruned, {len(found.seeds)} seeds", x=0.02, ha="left"
    )
    save_png(figure, path)


def arms_to_draw(arms: Sequence[str], shown: str | None = None, drawn: Sequence[str] | None = None) -> list[str]:
    """The arms that a picture compares with the control arm.

    Args:
        arms: Arms that have cells, or will have.
        shown, drawn: Names, as `study_png` takes them.

    Raises:
        InputError: No control arm, no other arm, or one that is not among them is to be drawn.
    """
    others = [arm for arm in arms if arm != CONTROL]
    if not others or CONTROL not in arms:
        raise InputError("the picture compares arms with the control arm: the cells lack one or the other")
    if shown is not None and shown not in others:
        raise InputError(f"no cells of arm {shown!r} to draw heads of: there are {', '.join(others)}")
    if drawn and set(drawn) - set(others):
        raise InputError(f"no cells of arm {min(set(drawn) - set(others))!r} to draw: there are {', '.join(others)}")
    return others


def _returns(found: Cells, arm: str) -> int:
    return sum(stage.returns for cell in found.by_arm[arm].values() for stage in cell.stages)


def _draw_arm(panel: Axes, found: Cells, arm: str, colour: str, style: str) -> None:
    control, mine = found.by_arm[CONTROL], found.by_arm[arm]
    seeds = sorted(set(control) & set(mine))
    if not seeds:
        return
    gaps = np.array([_curve(mine[seed]) - _curve(control[seed]) for seed in seeds])  # (seeds, decisions)
    decisions = np.arange(1, gaps.shape[1] + 1)
    panel.plot(decisions, gaps.mean(0), style, color=colour, linewidth=1.6, label=arm)
    if len(seeds) > 1:
        panel.fill_between(decisions, gaps.min(0), gaps.max(0), color=colour, alpha=0.08, linewidth=0)


def _curve(cell: Cell) -> np.ndarray:
    """Losses after each decision, stage after stage."""
    return np.concatenate([stage.losses[1:] for stage in cell.stages])


def _draw_heads(panel: Axes, found: Cells, arm: str) -> None:
    from matplotlib.ticker import MaxNLocator

    seed, cell = min(found.by_arm[arm].items())
    masks = np.array([[int(bit) for bit in mask] for stage in cell.stages for mask in stage.masks])  # (decisions, N)
    panel.imshow(
        masks.T,
        aspect="auto",
        cmap="Blues",
        vmin=0,
        vmax=1.4,
        interpolation="nearest",
        extent=(0.5, len(masks) + 0.5, masks.shape[1] + 0.5, 0.5),
    )
    panel.yaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_ylabel(f"head, layer after layer\n({arm}, seed {seed}; pale = pruned)")
