"""The learning curves in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from plasticity_env.agents.studies.learning_curves import Point
from plasticity_env.plots.charts import MARKERS, PALETTE, blank_figure, plain_log_ticks, save_png

GRID = 200  # steps at which seeds are averaged


def curves_png(points: Sequence[Point], path: Path, reference: str, model: str) -> None:
    """Draw the rise of the loss on held-out scenarios against environment steps: mean over seeds, band of one deviation.

    Args:
        points: Evaluations.
        path: The picture.
        reference: Name of the rule that is 1.
        model: Name of the language model.
    """
    figure = blank_figure()
    panel = figure.subplots()
    agents = list(dict.fromkeys(point.agent for point in points))
    for index, agent in enumerate(agents):
        steps, mean, deviation, seeds = band([point for point in points if point.agent == agent])
        colour = PALETTE[index % len(PALETTE)]
        label = f"{agent} ({seeds} seed{'s' if seeds > 1 else ''})"
        every = max(1, len(steps) // 10)
        panel.plot(steps, mean, color=colour, marker=MARKERS[index % len(MARKERS)], markevery=every, label=label)
        panel.fill_between(steps, mean - deviation, mean + deviation, color=colour, alpha=0.15, linewidth=0)
    panel.axhline(1.0, color="black", linewidth=1, linestyle="--", label=reference)
    panel.set_yscale("log")
    plain_log_ticks(panel)
    panel.set_xlabel("environment steps")
    panel.set_ylabel(f"rise of the loss, relative to {reference}'s")
    panel.set_title(f"{model}: held-out scenarios")
    panel.legend(frameon=False)
    save_png(figure, path)


def band(points: Sequence[Point]) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Mean and standard deviation over the seeds of one agent, interpolated to common steps.

    Returns:
        Steps from 0 to where the shortest training is, mean, deviation (0 of one seed), and the number of seeds.
    """
    seeds = sorted({point.seed for point in points})
    own = [sorted((point.steps, point.ratio) for point in points if point.seed == seed) for seed in seeds]
    grid = np.linspace(max(each[0][0] for each in own), min(each[-1][0] for each in own), GRID)
    values = np.stack([np.interp(grid, [at for at, _ in each], [ratio for _, ratio in each]) for each in own])
    deviation = values.std(0, ddof=1) if len(seeds) > 1 else np.zeros(GRID)
    return grid, values.mean(0), deviation, len(seeds)


def table(points: Sequence[Point]) -> list[str]:
    """A line for each agent: its last ratio, mean and deviation over seeds."""
    lines = []
    for agent in dict.fromkeys(point.agent for point in points):
        own = [point for point in points if point.agent == agent]
        last = [
            max((p for p in own if p.seed == seed), key=lambda p: p.steps) for seed in sorted({p.seed for p in own})
        ]
        ratios = [point.ratio for point in last]
        spread = f" ± {np.std(ratios, ddof=1):.3f}" if len(ratios) > 1 else ""
        lines.append(f"{agent:20} {np.mean(ratios):.3f}{spread}  ({len(ratios)} seeds, {last[0].steps} steps)")
    return lines
