"""The heat map of recovery: how much of pruning's loss training makes good, and what bringing heads back adds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from plasticity_env.common.errors import InputError
from plasticity_env.common.files import replace_file
from plasticity_env.cycle.grid.grid_plan import CONTROL, NONE, REVIVE, GridArm
from plasticity_env.cycle.grid.grid_report import GridCells
from plasticity_env.cycle.grid.grid_run import GridCell

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class _Way(NamedTuple):
    """What a row of panels shares; ``warmup`` is None where no arm grows."""

    repair: str
    multiplier: float
    warmup: int | None
    cycles: int

    def arm(self, growth: str, level: float, share: float) -> GridArm:
        if share == 0 or growth == NONE:
            return GridArm(level, self.repair)
        warmup = 0 if growth == REVIVE or self.warmup is None else self.warmup
        return GridArm(level, self.repair, growth, share, self.multiplier, warmup, self.cycles)

    def said(self) -> str:
        warmup = "" if self.warmup is None else f"\nwarm-up {self.warmup}"
        return f"repair {self.repair}\n{self.multiplier:g}x rate{warmup}\n{self.cycles} cycle{'s' * (self.cycles > 1)}"


def recovery_png(cells: Iterable[GridCell], path: Path) -> None:
    """Draw recovery over pruning level and what comes back: a panel for each way to bring heads back.

    A panel's first column is the same training with nothing brought back; the others say below what bringing back adds to it.
    Rows of panels differ in repair, learning rate, warm-up or cycles. What was not measured stays white.

    Args:
        cells: Cells of one setting.
        path: The picture.

    Raises:
        InputError: There is nothing to draw: no cell of a pruned model with a control arm.
    """
    from matplotlib.figure import Figure

    found = GridCells(cells)
    drawn = [arm for arm in found.arms if arm != CONTROL and found.recovery(arm)]
    if not drawn:
        raise InputError("no cell of a pruned model has a control arm yet, so there is no recovery to draw")
    ways, growths = _ways(drawn), list(dict.fromkeys(arm.growth for arm in drawn if arm.growth != NONE)) or [NONE]
    grown = [arm for arm in drawn if arm.growth != NONE]
    levels = sorted({arm.level for arm in grown or drawn})
    shares = [0.0, *sorted({arm.percentage for arm in grown})]
    means = [statistics.fmean(found.recovery(arm)) for arm in drawn if arm.level in levels]
    limits = max(-1.0, min(means)), min(1.5, max(means))
    size = (2.6 + len(growths) * (0.3 + 0.72 * len(shares)), 1.5 + len(ways) * (0.5 + 0.5 * len(levels)))
    figure = Figure(figsize=size, dpi=160, layout="constrained")
    panels = figure.subplots(len(ways), len(growths), squeeze=False, sharex=True, sharey=True)
    image: Any = None
    for row, way in zip(panels, ways, strict=True):
        for panel, growth in zip(row, growths, strict=True):
            image = _draw(panel, found, way, growth, levels, shares, limits)
            panel.set_title("training alone" if growth == NONE else growth, fontsize=8, loc="left")
        row[0].set_ylabel(f"{way.said()}\n\nheads pruned" if len(ways) > 1 else "heads pruned", fontsize=7)
    for panel in panels[-1]:
        panel.set_xlabel("heads brought back", fontsize=7)
    bar = figure.colorbar(image, ax=panels, shrink=0.9, aspect=30, format=lambda share, _: f"{share:.0%}")
    bar.set_label("share of pruning's loss made good", fontsize=7)
    bar.ax.tick_params(labelsize=7)
    setting, seeds = found.of(found.arms[0])[0].setting, len(found.seeds)
    figure.suptitle(
        f"{setting.model_name}: recovery after {setting.training_steps} steps, {seeds} seed{'s' * (seeds > 1)}\n"
        "below: points added over the same training with nothing brought back",
        x=0.01,
        ha="left",
        fontsize=9,
    )
    replace_file(path, lambda temporary: figure.savefig(temporary, format="png"))


def _ways(drawn: list[GridArm]) -> list[_Way]:
    """One for each combination that grows; where nothing grows, for each that revives; else for each repair."""
    growing = [arm for arm in drawn if arm.growth not in (NONE, REVIVE)]
    if growing:
        return list(dict.fromkeys(_Way(a.repair, a.multiplier, a.warmup_steps, a.cycles) for a in growing))
    reviving = [arm for arm in drawn if arm.growth == REVIVE] or drawn
    return list(dict.fromkeys(_Way(arm.repair, arm.multiplier, None, arm.cycles) for arm in reviving))


def _draw(
    panel: Axes,
    found: GridCells,
    way: _Way,
    growth: str,
    levels: list[float],
    shares: list[float],
    limits: tuple[float, float],
) -> Any:
    values = np.full((len(levels), len(shares)), np.nan)
    for y, level in enumerate(levels):
        alone = found.recovery(way.arm(NONE, level, 0.0))
        for x, share in enumerate(shares):
            recovered = found.recovery(way.arm(growth, level, share))
            if not recovered or (share == 0 and not alone):
                continue
            values[y, x] = statistics.fmean(recovered)
            text = f"{values[y, x]:.0%}"
            if share > 0 and alone:
                text += f"\n{round(100 * (values[y, x] - statistics.fmean(alone))):+d}"
            dark = values[y, x] < (limits[0] + limits[1]) / 2
            panel.text(x, y, text, ha="center", va="center", fontsize=7, color="white" if dark else "black")
    image = panel.imshow(values, cmap="viridis", vmin=limits[0], vmax=limits[1] + 1e-9, aspect="auto")
    panel.set_xticks(range(len(shares)), [f"{share:.0%}" for share in shares], fontsize=7)
    panel.set_yticks(range(len(levels)), [f"{level:.0%}" for level in levels], fontsize=7)
    panel.spines[:].set_visible(False)
    panel.tick_params(length=0)
    return image
