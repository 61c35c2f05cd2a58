"""Arguments of recording a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from plasticity_env.agents.training.agent import ENVIRONMENTS
from plasticity_env.common.arguments import check_counts, flags
from plasticity_env.common.errors import unknown
from plasticity_env.envs.settings import Settings

QUALITIES = ("expert", "mixed", "random")


@dataclass(frozen=True)
class RecordConfig:
    """Arguments of recording a data set."""

    env: str = "heads"
    """heads, head_edit or head_rank"""
    quality: str = "expert"
    """expert (the controller plays), random (allowed actions by chance), or mixed (at each step one of the two, by a coin)"""
    controller: str = "ann"
    """who the expert is: a controller's name or the folder of a saved one"""
    episodes: int = 20
    """episodes, one for each seed from --seed on"""
    settings: Annotated[Settings, flags(Settings, hidden=("observation", "signals"))] = field(
        default_factory=lambda: Settings(flop_price=4.0, horizon=4, device="auto")
    )
    """arguments of the environment"""
    seed: int = 0
    """seed of the first episode"""
    dataset_id: str = ""
    """name of the data set; unset: plasticity/ENV/QUALITY-v0"""
    root: Path | None = None
    """folder of Minari's data sets; unset: MINARI_DATASETS_PATH, or Minari's own"""

    def __post_init__(self) -> None:
        if self.env not in ENVIRONMENTS:
            raise unknown("environment", self.env, ENVIRONMENTS)
        if self.quality not in QUALITIES:
            raise unknown("quality", self.quality, QUALITIES)
        check_counts(self, episodes=1, seed=0)

    @property
    def name(self) -> str:
        """The name of the data set."""
        return self.dataset_id or f"plasticity/{self.env}/{self.quality}-v0"

    @property
    def played_by(self) -> str:
        """Who plays, in words."""
        return {"expert": self.controller, "random": "random"}.get(self.quality, f"{self.controller} or random")

    def environment(self, signals: Sequence[str] = ()) -> Settings:
        """The settings of the environment, with the signals that the controller reads."""
        return replace(self.settings, signals=tuple(signals))

    def description(self, settings: Settings) -> str:
        """What the data set is, in a sentence."""
        return (
            f"{ENVIRONMENTS[self.env]} over {settings.model_name} on {settings.dataset}, {self.episodes} episodes of "
            f"{settings.horizon} decisions, played by {self.played_by}"
        )
