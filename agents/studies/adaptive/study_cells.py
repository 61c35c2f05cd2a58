"""What the study measures, and how it is kept: one JSON line for one arm on one model with one seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plasticity_env.agents.studies.adaptive.study_setting import Setting
from plasticity_env.common.jsonl_table import CellFile


@dataclass(frozen=True)
class StageRecord:
    """One stage of one cell; losses in nats per token.

    Attributes:
        domain: Domain of the text.
        losses: Losses on the stage's reward blocks, before the first and after each decision's training.
        masks: Masks after each decision, a 1 for each active head and a 0 for each pruned one, layer after layer.
        flops_kept: Share of the dense model's FLOPs at the end.
        prunes, returns: Heads that went and came back, counted at every decision.
        test: Loss on the test split of each domain at the end.
        came_back: Heads that are active at the end and were pruned when the stage began.
        closed: ``test`` on the stage's text with these heads closed again and the rest repaired; None where none came back.
        others: The same with as many other active heads closed, mean over draws; None where there are too few.
    """

    domain: str
    losses: list[float]
    masks: list[str]
    flops_kept: float
    prunes: int
    returns: int
    test: dict[str, float]
    came_back: int
    closed: float | None
    others: float | None


@dataclass(frozen=True)
class Cell:
    """One arm on one model with one seed.

    Attributes:
        model, setting, arm, seed: The cell's place.
        texts: Names of the texts, by domain.
        dense: Test loss on each domain before anything happens.
        stages: What happened.
        seconds: Seconds by the clock on the wall.
        fingerprint: Fingerprint of the arm's network; empty where its name says all about it.
    """

    model: str
    setting: Setting
    arm: str
    seed: int
    texts: dict[str, str]
    dense: dict[str, float]
    stages: list[StageRecord]
    seconds: float
    fingerprint: str = ""

    @property
    def key(self) -> tuple[object, ...]:
        """What tells cells apart."""
        return (self.table, self.arm, self.fingerprint, self.seed)

    @property
    def table(self) -> tuple[object, ...]:
        """What cells of one table have in common."""
        return (self.model, self.setting, tuple(sorted(self.texts.items())))


def cell_file(path: Path) -> CellFile[Cell]:
    """The study's cells in a JSON lines file."""
    return CellFile(path, _parse, "this study")


def read_cells(path: Path) -> list[Cell]:
    """The finished cells of a file; none where there is no file.

    Raises:
        InputError: A line that is no cell.
    """
    return cell_file(path).read()


def _parse(row: dict[str, Any]) -> Cell:
    stages = [StageRecord(**stage) for stage in row["stages"]]
    return Cell(**{**row, "setting": Setting(**row["setting"]), "stages": stages})
