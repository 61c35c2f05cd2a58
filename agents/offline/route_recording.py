"""Who plays `plasticity/Route-v0` for a data set: nearest texts at the share that pays at the price, or a trained router."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from plasticity_env.agents.offline.cast import Cast
from plasticity_env.agents.offline.record_config import NEAREST, RecordConfig
from plasticity_env.controllers.routers.learned_router import LearnedRouter
from plasticity_env.controllers.routers.plain_routers import NearestRouter
from plasticity_env.controllers.routers.route_player import RoutePlayer
from plasticity_env.envs.route import ROUTE_ID, RouteEnv

LAST_NUMBERS = ("loss", "flops_kept", "structure")  # of infos: there once a structure is chosen


class RouteExpert:
    """Picks a structure for the text and the price of an episode.

    Args:
        env: The environment that is recorded.
        controller: ``nearest``, or the folder of a trained router.

    Raises:
        InputError: No router there, or one of other structures.
    """

    def __init__(self, env: RouteEnv, controller: str) -> None:
        self._env, self.board = env, env.board
        self._trained = None if controller == NEAREST else LearnedRouter.load(controller)
        train, table = self.board.chosen, self.board.table
        shares = sorted({share for share, kind in zip(table.shares, table.structures, strict=True) if kind and share})
        self._nearest: list[RoutePlayer] = [NearestRouter(share) for share in shares] if self._trained is None else []
        plays = [player.play(table, train) for player in self._nearest]
        self._rises = np.array([play.rise(table, train).mean() for play in plays])
        self._logs = np.array([np.log(table.flops_kept(play.structures)).mean() for play in plays])
        if self._trained is not None:
            self._trained.play(table, train[:1])  # says at once that it was trained for another bank

    def act(self, observation: Any) -> int:
        """The structure for the text of the running episode; only its prefix and the price are read."""
        drawn = self._env.episode_record().options
        price = float(drawn[self._env.settings.price_name])
        if self._trained is not None:
            player: RoutePlayer = self._trained.at(price)
        else:
            player = self._nearest[int((self._rises + price * self._logs).argmin())]
        return int(player.play(self.board.table, np.array([drawn["text"]])).structures[0])


def cast_of_routes(config: RecordConfig) -> Cast:
    """`plasticity/Route-v0`, its expert and chance.

    Raises:
        InputError: No table or router of that name, a table without nearest texts, or a router for other structures.
    """
    given: dict[str, Any] = {} if config.table is None else {"table": str(config.table)}
    env = gym.make(ROUTE_ID, **given)
    assert isinstance(env.unwrapped, RouteEnv)
    expert = RouteExpert(env.unwrapped, config.expert)

    def by_chance(observation: Any) -> int:
        return int(env.action_space.sample())

    settings = env.unwrapped.settings.kwargs()
    return Cast(env, settings, expert.act, by_chance, lambda seed: None, ("text",), LAST_NUMBERS)
