"""Arguments of a leaderboard."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from plasticity_env.agents.leaderboard.board_rules import Rules
from plasticity_env.common.arguments import check_counts, flags
from plasticity_env.common.tracking import TrackingOptions
from plasticity_env.envs.settings import MEASURING_ARGUMENTS, UNIT_ARGUMENTS, Settings


@dataclass(frozen=True)
class LeaderboardConfig:
    """Arguments of a leaderboard."""

    models: str = "bard-gpt2-4x4"
    """models, separated by commas: embedded names, folders, GGUF files or hub names"""
    players: str = "rules,ann"
    """NAME or NAME@ROUNDS: a rule, a saved controller's folder, package.module:function, a search; "rules" means all scores"""
    shares: str = "0.1,0.2,0.3,0.4,0.5,0.6"
    """shares of heads to prune, separated by commas"""
    seeds: int = 3
    """draws of calibration text"""
    test_blocks: int = 64
    """blocks of the test split that are scored"""
    settings: Annotated[Settings, flags(Settings, "mode", "reward_blocks", *MEASURING_ARGUMENTS, *UNIT_ARGUMENTS)] = (
        replace(Rules().settings, device="auto")
    )
    """arguments of the environment"""
    output: Path = Path("runs/leaderboard/cells.jsonl")
    """finished cells, one JSON line each; a second run continues where the first stopped"""
    submissions: str = ""
    """other people's controllers, separated by commas; they are replayed before they count (docs/leaderboard.md)"""
    versus: str = ""
    """players to compare with, separated by commas; each gets a column of areas divided by its own"""
    workers: int = 1
    """processes that play at the same time, each with its own copy of the model; with Ray, tasks at a time"""
    ray_address: str | None = None
    """play as Ray tasks on this cluster: auto, local or an address"""
    page: Path | None = None
    """the HTML page; unset: leaderboard.html beside cells.jsonl, in a folder NAME_board beside a file NAME.jsonl"""
    docs: Path | None = None
    """a Markdown page whose figures are replaced, such as docs/lab/leaderboard_tables.md"""
    tracking: TrackingOptions = field(default_factory=TrackingOptions)

    def __post_init__(self) -> None:
        check_counts(self, seeds=1, test_blocks=1, workers=1)

    @property
    def place(self) -> Path:
        """The folder of page, table and W&B's identity: beside cells.jsonl; other files of a folder have a folder each."""
        output = self.output
        return output.parent if output.name == "cells.jsonl" else output.with_name(f"{output.stem}_board")

    def rules(self, model_name: str) -> Rules:
        """The rules of one model's board."""
        return Rules(replace(self.settings, model_name=model_name), self.test_blocks)
