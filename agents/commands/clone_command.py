"""``plasticity clone``: train a controller on a Minari data set, by behaviour cloning."""

from __future__ import annotations

from plasticity_env.agents.commands.command import Command
from plasticity_env.agents.offline.clone_config import CloneConfig


def main(config: CloneConfig) -> None:
    """Train the controllers' network to do what the player of a data set did."""
    from plasticity_env.agents.offline.cloning import clone

    folder, found = clone(config)
    said = "no episode was held out" if found.agreement is None else f"{found.agreement:.1%} of held-out choices alike"
    print(f"loss {found.loss:.4f} nats, {said}; controller: {folder}")


COMMAND = Command("clone", CloneConfig, main)
