"""``plasticity train-router``: train a router that picks a structure for each text."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from plasticity_env.agents.commands.command import Command
from plasticity_env.agents.routing.router_arguments import RouterTraining
from plasticity_env.common.arguments import flags
from plasticity_env.common.tracking import TrackingOptions


@dataclass(frozen=True)
class TrainRouterConfig:
    """Arguments."""

    table: tyro.conf.Positional[str] = ""
    """folder of a route table; unset: the one that comes with the package"""
    output: str = "runs/router"
    """folder that the router is written to; a router that is there is replaced"""
    run_dir: Path | None = None
    """run folder with the numbers of the training; unset: a new one under runs/"""
    tracking: TrackingOptions = field(default_factory=TrackingOptions)
    training: Annotated[RouterTraining, flags(RouterTraining)] = field(default_factory=RouterTraining)
    """how it is trained"""


def main(config: TrainRouterConfig) -> None:
    """Train a router on the train texts of a route table: a regression of all losses, then PPO in plasticity/Route-v0."""
    from plasticity_env.agents.routing.router_run import run_router
    from plasticity_env.common.at_work import at_work_on
    from plasticity_env.common.errors import InputError
    from plasticity_env.common.places import check_place
    from plasticity_env.common.values import user_path
    from plasticity_env.common.wandb_run import check_mode
    from plasticity_env.controllers.routers.learned_router import DESCRIPTION
    from plasticity_env.dynamic.route_table import RouteTable
    from plasticity_env.envs.route import SHIPPED_TABLE

    output: Path = user_path(config.output, "--output")
    check_mode(config.tracking.wandb_mode)
    if config.run_dir is not None:
        check_place(config.run_dir, True, "--run_dir")
    check_place(output, True, "--output")
    if output.is_dir() and any(output.iterdir()) and not (output / DESCRIPTION).is_file():
        raise InputError(f"--output {str(output)!r} is a folder that holds no router: choose another one")
    with at_work_on(output):
        table = RouteTable.load(config.table or SHIPPED_TABLE)
        router, folder = run_router(table, config.training, output, config.run_dir, config.tracking, print)
    print(f"router: {output} ({router.info['kept']})\nrun: {folder}")


COMMAND = Command("train-router", TrainRouterConfig, main)
