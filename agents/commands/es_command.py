"""``plasticity es``: a linear ranking found by CMA-ES."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from plasticity_env.agents.commands.command import Command
from plasticity_env.agents.es_config import ESConfig


@dataclass(frozen=True)
class ESRunConfig(ESConfig):
    """Arguments of a search."""

    output_dir: Path | None = None
    """run folder, a search in it goes on; unset: a new one under runs/"""


def main(config: ESRunConfig) -> None:
    """Search a linear ranking of heads by CMA-ES; history.json and controller/ are written after every generation."""
    from plasticity_env.agents.es import CONTROLLER, LinearSearch
    from plasticity_env.common.tracking import new_run_folder

    shared = ESConfig(**{name: getattr(config, name) for name in ESConfig.__dataclass_fields__})
    search = LinearSearch(shared, config.output_dir or Path())
    if config.output_dir is not None:
        search.resume()
    else:
        search.folder = new_run_folder("es")
    controller = search.run()
    weights = dict(zip(shared.features, search.weights.round(3).tolist(), strict=True))
    print(f"controller: {search.folder / CONTROLLER} ({controller.info['global_step']} environment steps)")
    print("  ".join(f"{name} {value:+.2f}" for name, value in weights.items()))


COMMAND = Command("es", ESRunConfig, main)
