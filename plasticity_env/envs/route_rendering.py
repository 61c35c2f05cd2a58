"""An episode of plasticity/Route-v0 as text, and that text as a picture."""

from __future__ import annotations

import numpy as np

from plasticity_env.envs.route_columns import STRUCTURE_COLUMNS
from plasticity_env.envs.route_episodes import RouteEpisodes

_MEAN = list(STRUCTURE_COLUMNS).index("mean_rise")


def described(episodes: RouteEpisodes, index: int = 0) -> str:
    """Lines of text: each structure's FLOPs, mean rise and distance, what a probe showed, and which was chosen."""
    board, text = episodes.board, int(episodes.text[index])
    lines = [f"text {text}, {board.settings.price_name} {episodes.price[index]:.3g}"]
    lines.append(f"{'structure':16} {'FLOPs':>6} {'rise':>7} {'distance':>8} {'probe':>7}")
    for number, name in enumerate(board.table.structures):
        probe = f"{board.probe_rise[text, number]:7.3f}" if episodes.probed[index, number] else f"{'-':>7}"
        chosen = "  <- chosen" if episodes.structure[index] == number else ""
        mean, distance = board.static[number, _MEAN], board.distance[text, number]
        lines.append(f"{name:16} {board.kept[number]:6.3f} {mean:7.3f} {distance:8.3f} {probe}{chosen}")
    return "\n".join(lines)


def text_picture(text: str, columns: int = 62) -> np.ndarray:
    """(H, W, 3) uint8 picture of lines of text, black on white; H and W are even."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=14)
    rows = [line.ljust(columns) for line in text.splitlines()]
    cell = max(int(np.ceil(font.getlength(letter))) for letter in "MW0@")
    image = Image.new("RGB", (columns * cell, 18 * len(rows) + 8), "white")
    draw = ImageDraw.Draw(image)
    for number, row in enumerate(rows):
        for place, letter in enumerate(row):  # letter by letter, so that columns stand under each other
            draw.text((place * cell, 4 + 18 * number), letter, font=font, fill="black")
    return np.asarray(image)
