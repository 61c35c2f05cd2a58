"""An episode as an animated picture: heads going on the left, perplexity and FLOPs on the right."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from PIL import Image

from plasticity_env import controllers
from plasticity_env.common.files import replace_file
from plasticity_env.plots.charts import PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SECONDS, LAST_SECONDS = 0.7, 2.5
_PIXELS, _BACK = 100, "#fafaf8"  # pixels an inch; the background of rendered frames


@dataclass(frozen=True)
class Moment:
    """The model after a decision.

    Attributes:
        frame: (height, width, 3) uint8, what the environment renders.
        pruned: Share of the heads that are pruned.
        perplexity: Perplexity on the reward text.
        flops: Share of the dense model's FLOPs that is kept.
    """

    frame: np.ndarray
    pruned: float
    perplexity: float
    flops: float


def play_moments(controller: str, model_name: str, rounds: int, share: float, **settings: Any) -> list[Moment]:
    """Play an episode of `plasticity/HeadRank-v1`.

    Args:
        controller: Name of a controller, or the folder of a saved one.
        model_name: Language model to prune.
        rounds: Decisions of the episode.
        share: Share of the heads that is pruned when it ends.
        **settings: Further settings of the environment.

    Returns:
        The dense model, then the model after each decision.
    """
    player = controllers.make(controller)
    env: gym.Env[Any, Any] = gym.make(
        "plasticity/HeadRank-v1",
        model_name=model_name,
        horizon=rounds,
        pruned_share=share,
        render_mode="rgb_array",
        signals=player.signals,
        **settings,
    )
    observation, info = env.reset(seed=0)
    player.reset(0)
    moments, over = [_moment(env, info)], False
    while not over:
        observation, _, terminated, truncated, info = env.step(player.act(observation))
        over = terminated or truncated
        moments.append(_moment(env, info))
    env.close()
    return moments


def _moment(env: gym.Env[Any, Any], info: dict[str, Any]) -> Moment:
    frame: Any = env.render()
    base: Any = env.unwrapped
    return Moment(frame, 1 - info["active_heads"] / base.head_slots, info["ppl"], info["flops"] / base.dense_flops)


def animation_frames(moments: list[Moment]) -> list[np.ndarray]:
    """Pictures of one size, (height, width, 3) uint8: the rendered heads beside both curves up to this decision."""
    return [np.concatenate([moment.frame, _curves(moments, index)], axis=1) for index, moment in enumerate(moments)]


def _curves(moments: list[Moment], now: int) -> np.ndarray:
    """(height, width, 3) uint8: perplexity above FLOPs, over the share of pruned heads; both axes stay the same."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height = len(moments[0].frame) / _PIXELS
    figure = Figure(figsize=(3.6, height), dpi=_PIXELS, layout="constrained", facecolor=_BACK)
    above, below = figure.subplots(2, 1, sharex=True)
    pruned = [100 * moment.pruned for moment in moments]
    _curve(above, pruned, [moment.perplexity for moment in moments], now, "perplexity {:.1f}", PALETTE[1])
    _curve(below, pruned, [100 * moment.flops for moment in moments], now, "FLOPs {:.0f}%", PALETTE[0])
    below.set_xlabel("heads pruned, %", fontsize=9)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def _curve(panel: Axes, x: list[float], y: list[float], now: int, title: str, colour: str) -> None:
    margin = 0.12 * max(max(y) - min(y), 1e-6)
    panel.set_xlim(-3, max(*x, 1) + 3)
    panel.set_ylim(min(y) - margin, max(y) + 3 * margin)
    panel.plot(x[: now + 1], y[: now + 1], "-o", color=colour, markersize=3.5, linewidth=1.6)
    panel.set_title(title.format(y[now]), loc="left", fontsize=10, color=colour)
    panel.set_facecolor(_BACK)
    panel.tick_params(labelsize=8, length=2)
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)


def write_gif(frames: list[np.ndarray], path: Path) -> None:
    """Write an animated GIF that repeats, its last frame longer than the others.

    Args:
        frames: (height, width, 3) uint8 pictures of one size.
        path: The picture.
    """
    colours = Image.fromarray(frames[-1]).quantize(128, dither=Image.Dither.NONE)  # one palette: no flicker
    images = [Image.fromarray(frame).quantize(palette=colours, dither=Image.Dither.NONE) for frame in frames]
    durations = [round(1000 * SECONDS)] * (len(images) - 1) + [round(1000 * LAST_SECONDS)]
    replace_file(
        path,
        lambda temporary: images[0].save(
            temporary, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0, optimize=True
        ),
    )
