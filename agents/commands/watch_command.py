"""``plasticity watch``: watch runs on a page while they go on: curves, heads, the last episode step by step."""

from __future__ import annotations

from plasticity_env.agents.commands.command import Command
from plasticity_env.agents.watching.watch_config import WatchConfig
from plasticity_env.common.errors import InputError
from plasticity_env.common.packages import require


def main(config: WatchConfig) -> None:
    """Show one run or several on a page that follows them: learning curves, heads, and the last episode step by step."""
    if not config.runs:
        raise InputError("name the folder of a run, as in plasticity watch runs/train_ppo_20260101_120000")
    require("fastapi", "serve")
    require("uvicorn", "serve")
    from plasticity_env.agents.watching.watch_server import watch

    watch(config)


COMMAND = Command("watch", WatchConfig, main)
