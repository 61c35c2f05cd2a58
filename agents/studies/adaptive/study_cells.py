"""What the study measures, and how it is kept: one JSON line for one arm on one model with one seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plasticity_env.common.arguments import check_counts
from plasticity_env.common.errors import InputError
from plasticity_env.common.jsonl_table import CellFile
from plasticity_env.common.values import LARGEST_RATE, check_number
from plasticity_env.repair import find_repair

HOME, SHIFT = "home", "shift"


@dataclass(frozen=True)
class Setting:
    """What all cells of a table share; a cell of another setting is another cell.

    Attributes:
        stages: Domains of the stages in their order, separated by commas: "home" is the text that the model knows, "shift" the
            other one; pruned arms reach their share over the first one.
        decisions: In a stage, each followed by training.
        share: Of all heads, pruned from the end of the first stage on.
        train_steps: After each decision.
        learning_rate: Of AdamW, constant.
        batch_size: Sequences a step.
        block_size: Tokens a sequence.
        repair: Of every mask.
        calibration_blocks, reward_blocks: Drawn anew for each stage, the same ones for all arms.
        test_blocks: First blocks of each text's test split; they decide nothing.
        draws: Of other heads that are closed for comparison with those that came back.
    """

    stages: str = "home,home,shift,shift,home,home"
    decisions: int = 4
    share: float = 0.5
    train_steps: int = 8
    learning_rate: float = 3e-4
    batch_size: int = 8
    block_size: int = 128
    repair: str = "least_squares"
    calibration_blocks: int = 16
    reward_blocks: int = 16
    test_blocks: int = 64
    draws: int = 2

    def __post_init__(self) -> None:
        wrong = [domain for domain in self.path if domain not in (HOME, SHIFT)]
        if wrong or not self.path:
            raise InputError(f"stages name {HOME!r} or {SHIFT!r}, separated by commas, got {self.stages!r}")
        check_number("share", self.share, 0, 1, above=True, below=True)
        check_number("learning_rate", self.learning_rate, 0, LARGEST_RATE, above=True)
        check_counts(self, decisions=1, train_steps=1, test_blocks=1, draws=1, batch_size=1, block_size=2)
        check_counts(self, calibration_blocks=1, reward_blocks=1)
        find_repair(self.repair)

    @property
    def path(self) -> tuple[str, ...]:
        """The stages' domains."""
        return tuple(word.strip() for word in self.stages.split(","))


@dataclass(frozen=True)
class StageRecord:
    """One stage of one cell; losses in nats per token.

    Attributes:
        domain: Of the text.
        losses: On the stage's reward blocks, before the first and after each decision's training.
        masks: After each decision, a 1 for each active head and a 0 for each pruned one, layer after layer.
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
        model, setting, arm, seed: Which.
        texts: Names of the texts, by domain.
        dense: Test loss on each domain before anything happens.
        stages: What happened.
        seconds: Wall clock.
        fingerprint: Of the arm's network; empty where its name says all about it.
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
