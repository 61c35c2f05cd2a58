"""Planners: searches and other people's pruning, which may measure before they choose."""

from plasticity_env.controllers.planners.planner import (
    MEASURING_PASS,
    PLANNERS,
    Bill,
    Evolution,
    Greedy,
    LevelKnapsack,
    Planner,
    SwapSearch,
    Threshold,
    TorchPruning,
    Trials,
    actions_to,
    is_planner,
    make_planner,
    register_planner,
)

__all__ = [
    "MEASURING_PASS",
    "PLANNERS",
    "Bill",
    "Evolution",
    "Greedy",
    "LevelKnapsack",
    "Planner",
    "SwapSearch",
    "Threshold",
    "TorchPruning",
    "Trials",
    "actions_to",
    "is_planner",
    "make_planner",
    "register_planner",
]
