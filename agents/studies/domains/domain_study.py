"""What is forgotten when a model learns one text after another, at equal tokens: all weights, replay, and domains.

python -m plasticity_env.agents.studies.domains.domain_study

The model knows the embedded plays and meets programs, then tables. Arms train all weights (with 0, 10 or 50% of the rows from
texts that it knows), or give each new text a domain over the frozen body: norms, biases and embedding; with them units that the
plays give up by price, or low-rank rows of as many numbers; or the latter in a pruned body. Cells go to ``output`` as they
finish, and a run that was cut goes on.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from plasticity_env.agents.studies.domains.domain_arms import ARMS, Bench, Cell
from plasticity_env.agents.studies.domains.domain_settings import HOME, Setting
from plasticity_env.common.arguments import check_counts
from plasticity_env.common.at_work import at_work_on
from plasticity_env.common.cli import run, words
from plasticity_env.common.errors import unknown
from plasticity_env.common.jsonl_table import CellFile


@dataclass(frozen=True)
class DomainStudyConfig:
    """Arguments of the study."""

    model: str = "bard-gpt2-4x4"
    """language model"""
    arms: str = ",".join(ARMS)
    """ways to learn, separated by commas"""
    seeds: int = 3
    """seeds 0, 1, ..."""
    output: Path = Path("runs/domains/cells.jsonl")
    """finished cells, one JSON line each"""
    report: bool = False
    """only print the table of what is finished"""
    setting: Setting = field(default_factory=Setting)
    """what all cells share"""

    def __post_init__(self) -> None:
        check_counts(self, seeds=1)
        for arm in words(self.arms):
            if arm not in ARMS:
                raise unknown("arm", arm, ARMS)


def cell_file(path: Path) -> CellFile[Cell]:
    """The study's cells in a JSON lines file."""
    return CellFile(path, lambda row: Cell(**{**row, "setting": Setting(**row["setting"])}), "this study")


def main(config: DomainStudyConfig) -> None:
    """Measure every cell that is not finished, and print the table."""
    with at_work_on(config.output):
        file, setting = cell_file(config.output), config.setting
        done = {cell.key for cell in file.read()}
        for seed in range(config.seeds):
            arms = [arm for arm in words(config.arms) if (config.model, arm, seed, setting) not in done]
            if config.report or not arms:
                continue
            bench = Bench(config.model, seed, setting)
            for arm in arms:
                cell = bench.measured(arm)
                file.append(asdict(cell))
                losses = ", ".join(f"{text} {loss:.3f}" for text, loss in cell.end.items())
                print(f"seed {seed}, {arm}: {losses} ({cell.seconds:.0f} s)", flush=True)
        print(table([cell for cell in file.read() if cell.setting == setting and cell.model == config.model]))


def table(cells: Sequence[Cell]) -> str:
    """Markdown: what each arm learns and forgets, and what tells texts apart; means and standard deviations over seeds."""
    if not cells:
        return "no cell is finished"
    texts = (HOME, *cells[0].setting.texts)
    head = ["way", *(f"{text}, at the end" for text in texts), "forgotten", "online", "regret", "numbers a text"]
    lines = _headed([*head, "FLOPs: first, new, training"])
    noticed = [
        "way",
        "named right",
        "chunks: false alarms",
        "caught",
        "windows: false alarms",
        "caught",
        "after chunks",
    ]
    told = _headed(noticed)
    for arm in ARMS:
        mine = [cell for cell in cells if cell.arm == arm]
        if not mine:
            continue
        ends = [_spread([cell.end[text] for cell in mine]) for text in texts]
        kept = ", ".join(f"{getattr(mine[0], name):.2f}" for name in ("home_flops", "new_flops", "training_flops"))
        row = [
            arm,
            *ends,
            *(_spread([getattr(cell, name) for cell in mine]) for name in ("forgotten", "online", "regret")),
        ]
        lines.append(_line([*row, f"{mine[0].parameters:,}", kept]))
        if mine[0].named is not None:
            names = ("named", "false_alarms", "caught", "window_false_alarms", "window_caught")
            shares = [_spread([getattr(cell, name) for cell in mine]) for name in names]
            told.append(_line([arm, *shares, ", ".join(str(cell.delay or "-") for cell in mine)]))
    return "\n".join([*lines, "", *told])


def _headed(head: Sequence[str]) -> list[str]:
    return [_line(head), "|---" * len(head) + "|"]


def _line(row: Sequence[str]) -> str:
    return "| " + " | ".join(row) + " |"


def _spread(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{spread}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(DomainStudyConfig, main)
