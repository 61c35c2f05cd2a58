"""``plasticity evaluate-routers``: compare routers on a route table, against the best static structure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import tyro

from plasticity_env.agents.commands.command import Command
from plasticity_env.common import cli
from plasticity_env.common.arguments import check_counts
from plasticity_env.common.errors import InputError
from plasticity_env.common.values import check_number


@dataclass(frozen=True)
class EvaluateRoutersConfig:
    """Arguments."""

    table: tyro.conf.Positional[str] = ""
    """folder of a route table, or the name of a model whose table comes with the package; unset: bard-llama-6x8"""
    routers: str = ""
    """folders of learned routers, or names of embedded models that have one, separated by commas"""
    prices: str = "0.3,1,3"
    """prices of a nat of log FLOPs at which learned routers and the text oracle choose among all shares"""
    texts: str = "test"
    """texts that are played: test, train or all"""
    test_share: float = 0.25
    """share of each kind's texts, the last ones, that are test texts"""
    replicates: int = 2000
    """replicates of the paired bootstrap over texts"""
    seed: int = 0
    """seed of the bootstrap and of the random router"""
    output: Path | None = None
    """also write the rows to this JSON file"""
    page: Path | None = None
    """also write the table between its marks on this page (Markdown)"""

    def __post_init__(self) -> None:
        check_counts(self, replicates=1, seed=0)
        for price in cli.numbers(self.prices, "prices"):
            check_number("prices", price, 0, above=True)
        check_number("test_share", self.test_share, 0, 1, above=True, below=True)
        if self.texts not in ("test", "train", "all"):
            raise InputError(f"texts must be test, train or all, got {self.texts!r}")


def main(config: EvaluateRoutersConfig) -> None:
    """Play routers on the test texts and print a table: rise of the loss, FLOPs kept, and what is saved against the best static
    structure at equal mean FLOPs (linear between the measured ones), with bootstrap intervals."""
    from plasticity_env.agents.routing.router_evaluation import evaluate_routers, players_of, routers_table
    from plasticity_env.common.files import write_text
    from plasticity_env.common.marked_pages import MarkedPage
    from plasticity_env.controllers.routers.learned_router import LearnedRouter
    from plasticity_env.controllers.routers.oracles import TextOracle
    from plasticity_env.dynamic.route_table import RouteTable
    from plasticity_env.envs.route import SHIPPED_TABLE
    from plasticity_env.envs.route_split import split_texts

    prices = cli.numbers(config.prices, "prices")
    table = RouteTable.load(config.table or SHIPPED_TABLE)
    name = table.model or "a model"
    marks = f"<!-- routers on {name}: made by plasticity evaluate-routers -->", f"<!-- end of routers on {name} -->"
    page = None if config.page is None else MarkedPage(config.page, *marks)
    routers = [LearnedRouter.load(folder) for folder in cli.words(config.routers)]
    texts = split_texts(table, config.texts, config.test_share)
    players = players_of(table, config.seed)
    for number, router in enumerate(routers, 1):
        for price in prices:
            players.append(router.at(price))
            players[-1].name = "learned" if len(routers) == 1 else f"learned {number}"
    players += [TextOracle(price=price) for price in prices]
    rows = evaluate_routers(table, texts, players, config.replicates, config.seed)
    said = f"{len(texts)} {config.texts} texts of {table.tokens} tokens, {name}; intervals of 95%"
    shown = routers_table(rows, table.structures)
    print(f"{said}\n{shown}")
    if config.output is not None:
        write_text(config.output, json.dumps([row.plain() for row in rows], indent=1) + "\n")
        print(f"rows: {config.output}")
    if page is not None:
        page.renew(f"\n{said}\n\n{shown}\n")
        print(f"page: {page.path}")


COMMAND = Command("evaluate-routers", EvaluateRoutersConfig, main)
