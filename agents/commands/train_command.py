"""``plasticity train``: train a controller."""

from __future__ import annotations

from plasticity_env.agents.commands.command import Command
from plasticity_env.agents.training.train_config import TrainConfig


def main(config: TrainConfig) -> None:
    """Train a controller that prunes, revives and grows attention heads; --config FILE.yaml gives defaults."""
    from plasticity_env.agents.training.train_run import train

    folder = train(config)
    print(f"controller: {folder / 'controller'}")


COMMAND = Command("train", TrainConfig, main)
