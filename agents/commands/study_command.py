"""``plasticity study``: compare arms that prune and revive while the model trains, through a shift of text and back."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from plasticity_env.agents.commands.command import Command
from plasticity_env.agents.studies.adaptive.study_setting import Setting
from plasticity_env.common import cli
from plasticity_env.common.at_work import at_work_on
from plasticity_env.common.errors import check_least
from plasticity_env.common.marked_pages import MarkedPage


@dataclass(frozen=True)
class AdaptiveStudyConfig:
    """Arguments."""

    model_name: str = "bard-gpt2-4x4"
    """an embedded name, a folder, a GGUF file or a hub name"""
    dataset: str = "shakespeare"
    """the text that the model knows: shakespeare, a path, or a hub data set"""
    shift_dataset: str | None = None
    """the text that training moves to and back from; unset: use --stages home,home"""
    shift_name: str | None = None
    """name of that text in tables; unset: the name of its file"""
    arms: str = (
        "control,once:fisher,once:residual_fisher,compressed:fisher,compressed:residual_fisher,rule:fisher,"
        "rule:residual_fisher,rule:random,grow:fisher,plasticity,thresholds,ann,ann_fixed"
    )
    """control, plasticity, thresholds; once, compressed, rule, grow, search (with :SCORE); ann, ann_fixed (with :FOLDER)"""
    seeds: int = 3
    """draws of calibration text and training order"""
    setting: Setting = field(default_factory=Setting)
    """what all cells share"""
    device: str = "auto"
    """device to run on: auto, cpu, cuda, cuda:0, ..."""
    output: Path = Path("runs/study_adaptive/cells.jsonl")
    """finished cells, one JSON line each; a second run continues where the first stopped"""
    page: Path | None = None
    """also put the tables between the marks of this Markdown file"""
    picture: Path | None = None
    """also draw this PNG"""
    shown: str | None = None
    """arm whose heads the picture shows; unset: the first that brings heads back"""
    drawn: str = ""
    """arms whose curves the picture shows, separated by commas; unset: all"""


def main(config: AdaptiveStudyConfig) -> None:
    """Play the cells that are missing, and print the tables of the cells that were asked for."""
    with at_work_on(config.output):
        _study(config)


def _study(config: AdaptiveStudyConfig) -> None:
    from plasticity_env.agents.studies.adaptive.study import CONTROL, load_texts, make_arms, run_study
    from plasticity_env.agents.studies.adaptive.study_cells import cell_file
    from plasticity_env.agents.studies.adaptive.study_figure import arms_to_draw, study_png
    from plasticity_env.agents.studies.adaptive.study_tables import MARKS, legend, report
    from plasticity_env.model.loading import load_model

    if config.picture is not None:
        arms_to_draw([CONTROL, *cli.words(config.arms)], config.shown, cli.words(config.drawn))
    page = None if config.page is None else MarkedPage(config.page, *MARKS)
    setting, arms = config.setting, cli.words(config.arms)
    check_least("seeds", config.seeds, 1)
    make_arms(arms, setting)  # what cannot be used is an error now
    cell_file(config.output).read()
    loaded = load_model(config.model_name, device=config.device)
    texts = load_texts(loaded, setting, config.dataset, config.shift_dataset, config.shift_name)
    print(cli.machine(), file=sys.stderr)
    cells = []
    for cell, known in run_study(loaded, texts, setting, config.output, arms=arms, seeds=config.seeds):
        cells.append(cell)
        if not known:
            losses = " ".join(f"{stage.test[stage.domain]:.3f}" for stage in cell.stages)
            print(f"seed {cell.seed}  {cell.arm}: {losses}  ({cell.seconds:.0f} s)", file=sys.stderr, flush=True)
    tables = f"{legend(cell.arm for cell in cells)}\n\n{report(cells)}"
    print(tables)
    if page is not None:
        page.renew(tables)
    if config.picture is not None:
        study_png(cells, config.picture, config.shown, cli.words(config.drawn))


COMMAND = Command("study", AdaptiveStudyConfig, main)
