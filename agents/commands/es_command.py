"""``plasticity es``: find a linear ranking by CMA-ES."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from plasticity_env.agents.commands.command import Command
from plasticity_env.agents.es_config import ESConfig


@dataclass(frozen=True)
class ESRunConfig(ESConfig):
    """Arguments of a search."""

    output_dir: Path | None = None
    """run folder; a search in it is continued; unset: a new one under runs/"""


def main(config: ESRunConfig) -> None:
    """Search a linear ranking of heads by CMA-ES; history.json and controller/ are written after every generation."""
    from plasticity_env.agents.es import CONTROLLER, search

    shared = ESConfig(**{name: getattr(config, name) for name in ESConfig.__dataclass_fields__})
    found = search(shared, config.output_dir)
    weights = dict(zip(shared.features, found.weights.round(3).tolist(), strict=True))
    print(f"controller: {found.folder / CONTROLLER} ({found.steps} environment steps)")
    print("  ".join(f"{name} {value:+.2f}" for name, value in weights.items()))


COMMAND = Command("es", ESRunConfig, main)
