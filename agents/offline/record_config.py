"""Arguments of recording a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from plasticity_env.agents.training.agent import ENVIRONMENTS
from plasticity_env.common.arguments import check_counts, flags, plain
from plasticity_env.common.errors import InputError, unknown
from plasticity_env.envs.settings import Settings

QUALITIES = ("expert", "mixed", "random")
RECORDED = {**ENVIRONMENTS, "route": "plasticity/Route-v0"}
BEST, NEAREST = "ann", "nearest"  # who plays where no controller is named


def _settings() -> Settings:
    return Settings(flop_price=4.0, horizon=4, device="auto")


@dataclass(frozen=True)
class RecordConfig:
    """Arguments of recording a data set."""

    env: str = "heads"
    """heads, head_edit, head_rank or route"""
    quality: str = "expert"
    """expert (the controller plays), random (allowed actions by chance), or mixed (at each step one of the two, by a coin)"""
    controller: str = ""
    """who the expert is: a controller's name or the folder of a saved one, unset: ann. On route: nearest (unset), which takes
    the structure of the nearest texts at the share that pays at the price, or the folder of a trained router"""
    episodes: int = 20
    """episodes, one for each seed from --seed on"""
    settings: Annotated[Settings, flags(Settings, hidden=("observation", "signals"))] = field(default_factory=_settings)
    """arguments of the environment; not of route, whose default ones are played"""
    table: Path | None = None
    """route: folder of a route table, or the name of a model whose table comes with the package; unset: bard-llama-6x8"""
    seed: int = 0
    """seed of the first episode"""
    dataset_id: str = ""
    """name of the data set; unset: plasticity/ENV/QUALITY-v0"""
    root: Path | None = None
    """folder of Minari's data sets; unset: MINARI_DATASETS_PATH, or Minari's own"""

    def __post_init__(self) -> None:
        if self.env not in RECORDED:
            raise unknown("environment", self.env, RECORDED)
        if self.env == "route" and plain(replace(self.settings, device="auto")) != plain(_settings()):
            raise InputError(
                "--env route reads a table and runs no model: leave the model's and episodes' arguments out"
            )
        if self.env != "route" and self.table is not None:
            raise InputError(f"--table is for --env route, this is --env {self.env}: leave it out")
        if self.quality not in QUALITIES:
            raise unknown("quality", self.quality, QUALITIES)
        check_counts(self, episodes=1, seed=0)

    @property
    def name(self) -> str:
        """The name of the data set."""
        return self.dataset_id or f"plasticity/{self.env}/{self.quality}-v0"

    @property
    def expert(self) -> str:
        """Who the expert is."""
        return self.controller or (NEAREST if self.env == "route" else BEST)

    @property
    def played_by(self) -> str:
        """Who plays, in words."""
        return {"expert": self.expert, "random": "random"}.get(self.quality, f"{self.expert} or random")

    def environment(self, signals: Sequence[str] = ()) -> Settings:
        """The settings of the environment, with the signals that the controller reads."""
        return replace(self.settings, signals=tuple(signals))

    def description(self) -> str:
        """What the data set is, in a sentence."""
        if self.env == "route":
            return f"{RECORDED[self.env]}, {self.episodes} texts, played by {self.played_by}"
        return (
            f"{RECORDED[self.env]} over {self.settings.model_name} on {self.settings.dataset}, {self.episodes} episodes of "
            f"{self.settings.horizon} decisions, played by {self.played_by}"
        )
