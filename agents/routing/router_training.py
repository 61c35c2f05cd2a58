"""Training a router in Route-v0: a regression of all losses first, as a table lets one do, then PPO on the reward itself."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from plasticity_env.agents.routing.router_arguments import RouterTraining
from plasticity_env.agents.routing.router_policy import RouterExtractor, RouterPolicy
from plasticity_env.agents.sb3.native_vec_env import NativeVecEnv
from plasticity_env.common.arguments import plain
from plasticity_env.common.errors import InputError
from plasticity_env.controllers.routers.learned_router import LearnedRouter
from plasticity_env.controllers.routers.router_network import RouterConfig, RouterNetwork
from plasticity_env.dynamic.route_table import RouteTable
from plasticity_env.envs.route_board import RouteBoard
from plasticity_env.envs.route_columns import REQUEST_COLUMNS, STRUCTURE_COLUMNS
from plasticity_env.envs.route_settings import RouteSettings

PRICES = 8  # at which a network is judged on the texts that it does not learn from
JUDGED = 4  # every so many of a kind's train texts is one of them
ROLLOUT = 16  # steps of each environment


Report = Callable[[str], None]


def train_router(table: RouteTable, how: RouterTraining, report: Report | None = None) -> LearnedRouter:
    """Train a router on a table's train texts.

    A quarter of them is not learned from but judges: of the networks on the way (untrained, after the regression, after each
    rollout of PPO) the one with the best mean potential on them, over prices, is kept.

    Args:
        table: What was measured.
        how: Arguments.
        report: Told of each stage.

    Returns:
        The router; its ``info`` says what each stage reached.

    Raises:
        InputError: Fewer than eight train texts, or what ``plasticity/Route-v0`` refuses.
    """
    say = report or (lambda line: None)
    prices = how.prices
    shared: dict[str, Any] = {"test_share": how.test_share, "held_out": how.held_out, "flop_price": prices}
    board = RouteBoard(table, RouteSettings(observation="flat", texts="train", **shared))
    if len(board.chosen) < 2 * JUDGED:
        raise InputError(f"a router needs at least {2 * JUDGED} train texts, the table has {len(board.chosen)}")
    judged = board.chosen[JUDGED - 1 :: JUDGED]
    learned = np.setdiff1d(board.chosen, judged)
    torch.manual_seed(how.seed)
    columns = board.columns
    mean_rise = torch.from_numpy(-board.quality[learned].mean(0))
    config = RouterConfig(len(columns.prefix), columns.structures, how.width)
    network = RouterNetwork(config, mean_rise, torch.from_numpy(np.log(board.kept)))
    best = _Best(network, board, judged, np.geomspace(*prices, PRICES))
    said = {"untrained": best.potential}
    say(
        f"{len(learned)} texts to learn from, {len(judged)} to judge by; mean potential of the mean rises {best.potential:.4f}"
    )
    if how.warm_start:
        _regress(network, board, learned, judged, how)
        best.look("regression")
        said["regression"] = best.last
        say(f"regression: {best.last:.4f}")
    if how.total_steps:
        envs = gym.make_vec(
            "plasticity/Route-v0", num_envs=how.num_envs, table=table, observation="flat", texts="train", **shared
        )
        envs.unwrapped.board.chosen = learned  # type: ignore[attr-defined]
        if best.stage == "regression":
            best.restore()
        _improve(network, NativeVecEnv(envs), len(columns.prefix), columns.structures, how, lambda: best.look("PPO"))
        said["PPO"] = best.last
        say(f"PPO: {best.last:.4f} after {how.total_steps} steps")
    best.restore()
    say(f"kept: {best.stage} at {best.potential:.4f}")
    info = {"potential": said, "kept": best.stage, "how": plain(how), "texts": len(learned)}
    return LearnedRouter(network, board.center, board.scale, table.structures, math.sqrt(math.prod(prices)), info=info)


class _Best:
    """The best network so far, judged by the mean potential of its choices on texts that it does not learn from.

    Args:
        network: Judged as it is at the moment.
        board: Losses and costs.
        texts: Numbers of the texts.
        prices: Prices at which it is judged.
    """

    def __init__(self, network: RouterNetwork, board: RouteBoard, texts: np.ndarray, prices: np.ndarray) -> None:
        self._network, self._prefix = network, torch.from_numpy(board.prefix[texts])
        self._quality, self._log_cost, self._prices = board.quality[texts], np.log(board.kept), prices
        self.potential, self.stage = -math.inf, ""
        self.look("untrained")

    @torch.no_grad()
    def look(self, stage: str) -> None:
        """Judge the network as it is, and remember it if it is the best."""
        found, rows = [], np.arange(len(self._prefix))
        for price in self._prices.tolist():
            picks = self._network.scores(self._prefix, torch.full((len(rows),), math.log(price))).argmax(1).numpy()
            found.append((self._quality[rows, picks] - price * self._log_cost[picks]).mean())
        self.last = float(np.mean(found))
        if self.last > self.potential:
            self.potential, self.stage = self.last, stage
            self._kept = copy.deepcopy(self._network.state_dict())

    def restore(self) -> None:
        """Bring the best network back."""
        self._network.load_state_dict(self._kept)


def _regress(
    network: RouterNetwork, board: RouteBoard, learned: np.ndarray, judged: np.ndarray, how: RouterTraining
) -> None:
    """Fit the predicted rises to the measured ones; the epoch with the smallest error on the judging texts is kept."""
    prefix, target = (torch.from_numpy(part).float() for part in (board.prefix, -board.quality))
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=how.weight_decay)
    shuffle = torch.Generator().manual_seed(how.seed)
    scale = target[learned].std(0).clamp(min=1e-4)
    lowest, kept, waited = math.inf, copy.deepcopy(network.state_dict()), 0
    for _ in range(how.warm_start):
        for batch in torch.from_numpy(learned)[torch.randperm(len(learned), generator=shuffle)].split(64):
            loss = ((network.rise(prefix[batch]) - target[batch]) / scale).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            error = float(((network.rise(prefix[judged]) - target[judged]) / scale).square().mean())
        waited += 1
        if error < lowest:
            lowest, kept, waited = error, copy.deepcopy(network.state_dict()), 0
        if waited == 30:
            break
    network.load_state_dict(kept)


def _improve(
    network: RouterNetwork,
    envs: NativeVecEnv,
    inputs: int,
    structures: int,
    how: RouterTraining,
    look: Callable[[], None],
) -> None:
    """Train the network with PPO; ``look`` is called after each update."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback

    class Look(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            look()

    request = inputs + structures * len(STRUCTURE_COLUMNS)
    log_price = request + list(REQUEST_COLUMNS).index("log_price")
    batch = ROLLOUT * how.num_envs
    agent = PPO(
        RouterPolicy,
        envs,
        n_steps=ROLLOUT,
        batch_size=max(2, batch // 4),
        n_epochs=4,
        learning_rate=how.learning_rate,
        gamma=1.0,
        ent_coef=0.0,
        seed=how.seed,
        device="cpu",
        policy_kwargs={
            "net_arch": [],
            "ortho_init": False,
            "features_extractor_class": RouterExtractor,
            "features_extractor_kwargs": {"network": network, "log_price": log_price},
        },
    )
    agent.learn(how.total_steps, callback=Look())
    look()
