"""A picture of one stream: the kind of text, what ran, and what it cost beside a fixed structure and an oracle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

SHOWN = ("nearest texts", "stage oracle")
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#333333")


def draw_stream(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a PNG.

    Args:
        rows: Rows of one stream, one an arm, as `stream_study.play_stream` makes them.
        path: File to write.
    """
    by_arm = {str(row["arm"]): row for row in rows}
    static = min((arm for arm in by_arm if arm.startswith("static")), key=lambda arm: by_arm[arm]["rise"])
    kinds = list(dict.fromkeys(rows[0]["kinds"]))
    figure, (top, middle, bottom) = plt.subplots(
        3, 1, figsize=(9, 5), sharex=True, height_ratios=(0.5, 0.5, 4), layout="constrained"
    )
    chunks = len(rows[0]["kinds"])
    for axes, names, title in (
        (top, rows[0]["kinds"], "text"),
        (middle, [name.split("@")[0] for name in by_arm["nearest texts"]["structures"]], "structure"),
    ):
        colours = [COLOURS[kinds.index(Path(name).stem) if Path(name).stem in kinds else -1] for name in names]
        axes.bar(np.arange(chunks), 1, width=1.0, color=colours)
        axes.set_yticks([])
        axes.set_ylabel(title, rotation=0, ha="right", va="center")
    for arm, colour in zip((static, *SHOWN), ("#888888", "#ee6677", "#4477aa"), strict=True):
        style = "--" if arm == "stage oracle" else "-"
        bottom.plot(by_arm[arm]["rises"], style, color=colour, label=f"{arm} ({by_arm[arm]['rise']:.3f} nats)")
    for kind, colour in zip(kinds, COLOURS, strict=False):
        bottom.plot([], [], "s", color=colour, label=kind)
    bottom.set_xlabel("chunk")
    bottom.set_ylabel("rise of the loss, nats")
    figure.legend(ncol=4, fontsize=8, frameon=False, loc="outside lower center")
    bottom.margins(x=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
