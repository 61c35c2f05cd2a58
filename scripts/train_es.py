"""Search a linear ranking of heads by CMA-ES: the black-box peer of the policy gradients.

python scripts/train_es.py --model_name bard-gpt2-4x4,bard-llama-4x8 --generations 40 --output_dir runs/es
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from plasticity_env.agents.es import CONTROLLER, ESConfig, search
from plasticity_env.common import cli


@dataclass(frozen=True)
class Config(ESConfig):
    """Arguments."""

    output_dir: Path | None = None
    """run folder, a search in it goes on; unset: a new one under runs/"""


def main(config: Config) -> None:
    """Search, and write history.json and controller/ after every generation."""
    shared = ESConfig(**{name: getattr(config, name) for name in ESConfig.__dataclass_fields__})
    found = search(shared, config.output_dir)
    weights = dict(zip(shared.features, found.weights.round(3).tolist(), strict=True))
    print(f"controller: {found.folder / CONTROLLER} ({found.steps} environment steps)")
    print("  ".join(f"{name} {value:+.2f}" for name, value in weights.items()))


if __name__ == "__main__":
    cli.run(Config, main)
