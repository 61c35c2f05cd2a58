"""Finished cells: what one arm came to at one share in one draw, text by text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plasticity_env.common.arguments import check_counts
from plasticity_env.common.errors import InputError
from plasticity_env.common.jsonl_table import CellFile
from plasticity_env.common.values import LARGEST_RATE, check_number


@dataclass(frozen=True)
class ArmSetting:
    """What all cells of one table share, and the arguments of the study."""

    blocks: int = 48
    """calibration blocks of each kind"""
    test_texts: int = 16
    """test texts of each kind, the same in all draws"""
    train_texts: int = 16
    """train texts of each kind that routers and masks learn from"""
    max_length: int = 256
    """tokens of a block and of a text"""
    prefix_tokens: int = 32
    """tokens of a text that run dense before a structure is picked"""
    greedy_texts: int = 4
    """calibration texts on which a set of omissions is built greedily"""
    sets: int = 2
    """sets of omissions that PuDDing builds for each kind, on other texts each"""
    clusters: int = 4
    """clusters of IG-Pruning"""
    probe_share: float = 0.05
    """share of a text's hidden states that Probe Pruning runs ahead"""
    agent_steps: int = 10_000
    """removals that RAP's agent is trained for"""
    mask_steps: int = 50
    """optimizer steps of masks that are trained through a straight-through estimator"""
    mask_batch: int = 4
    """texts in a step"""
    mask_rate: float = 0.05
    """learning rate of Adam for them"""

    def __post_init__(self) -> None:
        check_counts(
            self,
            blocks=1,
            test_texts=1,
            train_texts=4,
            max_length=3,
            prefix_tokens=2,
            greedy_texts=1,
            sets=1,
            clusters=1,
            agent_steps=1,
            mask_steps=0,
            mask_batch=1,
        )
        check_number("probe_share", self.probe_share, 0, 1, above=True)
        check_number("mask_rate", self.mask_rate, 0, LARGEST_RATE, above=True)
        if self.prefix_tokens >= self.max_length:
            raise InputError(
                f"prefix_tokens {self.prefix_tokens} must be less than max_length {self.max_length}: shorten the prefix"
            )
        if self.greedy_texts * self.sets > self.blocks:
            raise InputError(
                f"{self.sets} sets of {self.greedy_texts} greedy_texts each need {self.greedy_texts * self.sets} blocks of "
                f"calibration, there are {self.blocks}: raise blocks"
            )


@dataclass(frozen=True)
class ArmCell:
    """One arm at one share in one draw.

    Attributes:
        model, datasets, setting, draw, group, share, arm: The cell's place; a group of arms is played together.
        rises: Rise of the loss over the dense model's after the prefix, nats per token, of each test text.
        kept: FLOPs over the dense model's, prefix, probes and router counted, of each test text.
        seconds: Processor seconds that the group took.
    """

    model: str
    datasets: tuple[str, ...]
    setting: ArmSetting
    draw: int
    group: str
    share: float
    arm: str
    rises: list[float]
    kept: list[float]
    seconds: float

    @property
    def table(self) -> tuple[object, ...]:
        """What cells of one table have in common."""
        return self.model, self.datasets, self.setting

    @property
    def place(self) -> tuple[object, ...]:
        """What is played together."""
        return *self.table, self.draw, self.group, self.share


def arm_cells(path: Path) -> CellFile[ArmCell]:
    """The study's cells in a JSON lines file."""

    def parse(row: dict[str, Any]) -> ArmCell:
        return ArmCell(**{**row, "setting": ArmSetting(**row["setting"]), "datasets": tuple(row["datasets"])})

    return CellFile(path, parse, "this study")
