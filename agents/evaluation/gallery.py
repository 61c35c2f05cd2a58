"""A map for each controller that ships: which units of a model it prunes first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plasticity_env.controllers.ann import ANNController
from plasticity_env.controllers.shipped import UNITS, shipped_folder
from plasticity_env.envs.head_rank import HeadRankEnv
from plasticity_env.plots.charts import save_png
from plasticity_env.plots.head_panels import draw_grid, head_axes, head_figure

SHARES = tuple(round(0.1 * number, 1) for number in range(1, 10))


@dataclass(frozen=True)
class PruningMap:
    """When a controller prunes each unit of a model.

    Attributes:
        controller, model: Their names.
        gone_at: (L, U) the smallest of the shares at which the unit goes; NaN where it stays at all of them.
        heads: How many columns are heads; the others are MLP blocks.
    """

    controller: str
    model: str
    gone_at: np.ndarray
    heads: int


def pruning_map(
    name: str, model: str, shares: Sequence[float] = SHARES, seed: int = 0, **settings: object
) -> PruningMap:
    """Ask a shipped controller for each share, in one round from the dense model.

    Args:
        name: One of the names in `shipped()`.
        model: An embedded name, a folder, a GGUF file or a hub name.
        shares: Shares of the units, in ascending order.
        seed: Draws the calibration text.
        **settings: Settings of the environment.

    Raises:
        InputError: No such controller or model.
    """
    controller = ANNController.load(shipped_folder(name))
    units = "heads+mlp" if name == UNITS else "heads"
    env = HeadRankEnv(version=1, **{"model_name": model, "units": units, "horizon": 1, "max_sparsity": 1.0, **settings})  # type: ignore[arg-type]
    gone_at = np.full(env.workbench.model.shape, np.nan)
    for share in reversed(shares):
        observation, _ = env.reset(seed=seed, options={"pruned_share": share})
        controller.reset(seed)
        gone_at[~env.preview(controller.act(observation)).numpy()] = share
    heads = env.workbench.model.heads
    env.close()
    return PruningMap(name, model, gone_at, heads)


def gallery_png(maps: Sequence[PruningMap], path: Path) -> None:
    """Draw maps one below the other, legible on a phone; the darker a unit, the sooner it goes."""
    shape = tuple(np.max([found.gone_at.shape for found in maps], axis=0))
    figure, panels = head_figure(shape, len(maps), stacked=True)
    for found, panel in zip(maps, panels, strict=True):
        head_axes(panel, found.gone_at.shape)
        image = panel.imshow(found.gone_at, cmap="viridis", vmin=0, vmax=1, aspect="auto")
        draw_grid(panel, found.gone_at.shape)
        if found.heads < found.gone_at.shape[1]:
            panel.axvline(found.heads - 0.5, color="black", linewidth=1.5)
            panel.set_xlabel("head | MLP block")
        panel.set_title(f"{found.controller} on {found.model}", fontsize=10)
        figure.colorbar(image, ax=panel, label="share pruned when it goes")
    save_png(figure, path)
