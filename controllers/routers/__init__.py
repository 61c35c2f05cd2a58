"""Routers: who picks a structure for each text, played on a route table or inside a `RoutedModel`."""

from plasticity_env.controllers.routers.learned_router import LearnedRouter
from plasticity_env.controllers.routers.oracles import LabelOracle, TextOracle
from plasticity_env.controllers.routers.plain_routers import FixedRouter, NearestRouter, ProbingRouter, RandomRouter
from plasticity_env.controllers.routers.route_player import Played, RoutePlayer
from plasticity_env.controllers.routers.router_network import RouterNetwork

__all__ = [
    "FixedRouter",
    "LabelOracle",
    "LearnedRouter",
    "NearestRouter",
    "Played",
    "ProbingRouter",
    "RandomRouter",
    "RoutePlayer",
    "RouterNetwork",
    "TextOracle",
]
