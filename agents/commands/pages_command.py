"""``plasticity pages``: draw the pictures of the README and the documentation."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from plasticity_env.agents.commands.command import Command
from plasticity_env.common.arguments import check_counts, fill
from plasticity_env.common.digests import read_rows
from plasticity_env.common.errors import InputError, first_line, unknown
from plasticity_env.common.files import replace_file


@dataclass(frozen=True)
class PagesConfig:
    """Arguments."""

    demo: Path = Path("runs/demo")
    """run folder of a demo"""
    output_dir: Path = Path("docs/pictures")
    """where the pictures go"""
    only: str = "all"
    """all; demo (the pictures of a demo's run folder); episode (an animation of an episode); board (curves of a few
    players of the leaderboard); or gallery (which units the shipped controllers prune first)"""
    model_name: str = "bard-neox-5x6"
    """episode: the language model that is pruned"""
    controller: str = "ann"
    """episode: name or folder of the controller"""
    rounds: int = 12
    """episode: decisions"""
    share: float = 0.6
    """episode: share of the heads that is pruned when it ends"""
    cells: Path = Path("docs/leaderboard/cells.jsonl")
    """board: the leaderboard's file"""
    board: str = "SmolLM2-135M-Instruct.Q4_1"
    """board: short name of the model"""
    players: str = "ann@4,residual_gradient@4,flap@4,fisher@4,gradient@4,random@1"
    """board: players with their rounds, separated by commas; at most six"""
    gallery_model: str = "bard-gpt2-6x8"
    """gallery: the language model whose units are ranked"""


WHAT = ("all", "demo", "episode", "board", "gallery")


def main(config: PagesConfig) -> None:
    """Draw the pictures of the README and the documentation."""
    if config.only not in WHAT:
        raise unknown("only", config.only, WHAT)
    check_counts(config, rounds=1)
    if config.only in ("all", "demo"):
        _draw_demo(config)
    if config.only in ("all", "board"):
        _draw_board(config)
    if config.only in ("all", "episode"):
        _draw_episode(config)
    if config.only in ("all", "gallery"):
        _draw_gallery(config)
    print(f"pictures: {config.output_dir}")


def _draw_board(config: PagesConfig) -> None:
    from plasticity_env.agents.leaderboard.report.board_curves import board_curves_png
    from plasticity_env.common.cli import words

    board_curves_png(config.cells, config.board, words(config.players), config.output_dir / "board.png")


def _draw_episode(config: PagesConfig) -> None:
    from plasticity_env.agents.evaluation.animation import animation_frames, play_moments, write_gif

    moments = play_moments(config.controller, config.model_name, config.rounds, config.share)
    write_gif(animation_frames(moments), config.output_dir / "episode.gif")


def _draw_gallery(config: PagesConfig) -> None:
    from plasticity_env.agents.evaluation.gallery import gallery_png, pruning_map
    from plasticity_env.controllers.shipped import shipped

    maps = [pruning_map(name, config.gallery_model) for name in shipped()]
    gallery_png(maps, config.output_dir / "gallery.png")


def _draw_demo(config: PagesConfig) -> None:
    """Draw the frontier, the learning curve, and the environment after the controller's last decision."""
    import yaml

    results = config.demo / "comparison" / "results.json"
    if not results.is_file():
        raise InputError(f"no demo results at {str(results)!r}: run make demo first")
    try:
        _draw(config)
    except (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise InputError(
            f"a file of the demo in {str(config.demo)!r} is damaged ({first_line(error)}): run make demo again"
        ) from error


def _draw(config: PagesConfig) -> None:
    import yaml
    from PIL import Image

    from plasticity_env.agents.evaluation.demo import episode_frames
    from plasticity_env.agents.evaluation.frontier import frontier_png
    from plasticity_env.agents.evaluation.learning_curve import learning_curve_png
    from plasticity_env.agents.training.train_config import TrainConfig

    names = ("comparison", "held_out", "held_out_units")
    paths = {name: path for name in names if (path := config.demo / name / "results.json").is_file()}
    found = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items()}
    rows = read_rows(config.demo / "training" / "metrics.jsonl")
    saved = yaml.safe_load((config.demo / "training" / "config.yaml").read_text(encoding="utf-8"))
    trained = fill(TrainConfig(), {**saved, "output_dir": None}, "config.yaml")
    model = found["comparison"]["model"]
    config.output_dir.mkdir(parents=True, exist_ok=True)
    for name, result in found.items():
        frontier_png(result, config.output_dir / f"frontier_{name}.png")
    learning_curve_png(rows, config.output_dir / "learning_curve.png")
    frames = episode_frames(config.demo / "training" / "controller", trained, model)
    image = Image.fromarray(frames[-1][1])
    replace_file(config.output_dir / "environment.png", lambda path: image.save(path, "PNG"))


COMMAND = Command("pages", PagesConfig, main)
