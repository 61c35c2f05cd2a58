"""Arguments of behaviour cloning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from plasticity_env.common.arguments import check_counts
from plasticity_env.common.values import LARGEST_RATE, check_number


@dataclass(frozen=True)
class CloneConfig:
    """Arguments of behaviour cloning."""

    dataset_id: str = "plasticity/heads/expert-v0"
    """Minari data set of an environment of this package, as plasticity record writes it"""
    root: Path | None = None
    """folder of Minari's data sets; unset: MINARI_DATASETS_PATH, or Minari's own"""
    epochs: int = 100
    """passes over the data"""
    batch_size: int = 32
    """decisions of one gradient step"""
    learning_rate: float = 1e-3
    """learning rate of Adam"""
    width: int = 64
    """hidden units of the network"""
    seed: int = 1
    """seed of the network and of the order of the data"""
    output_dir: Path | None = None
    """folder of the controller; unset: a new one under runs/"""

    def __post_init__(self) -> None:
        check_counts(self, epochs=1, batch_size=1, width=1, seed=0)
        check_number("learning_rate", self.learning_rate, 0, LARGEST_RATE, above=True)
