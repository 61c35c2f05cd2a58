"""What players are called on a page, and which kind they are."""

from __future__ import annotations

from pathlib import Path

from plasticity_env import controllers
from plasticity_env.agents.leaderboard.players import OWN_SCORES, Player, read_player
from plasticity_env.controllers.planners.planner import is_planner

KINDS = ("learned", "search", "own rule", "rule")


def label(player: str) -> str:
    """A player's text; a long path and a long module by their last two parts."""
    name, at, rounds = player.rpartition("@")
    module, colon, function = name.partition(":")
    if colon and module.count(".") > 1:
        return f"{'.'.join(module.split('.')[-2:])}:{function}{at}{rounds}"
    parts = Path(name).parts
    return f"{'/'.join(parts[-2:])}{at}{rounds}" if len(parts) > 2 else player


def kind(player: str) -> str:
    """ "learned" (networks, submissions), "search", "own rule" (this project's scores) or "rule"."""
    read: Player = read_player(player)
    if is_planner(read.name):
        return "search"
    if read.name in OWN_SCORES:
        return "own rule"
    return "rule" if read.name in controllers.names() and read.name != "ann" else "learned"
