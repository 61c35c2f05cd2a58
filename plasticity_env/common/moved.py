"""Where modules went that files made before the move name: archives of Stable-Baselines3, and entry points of leaderboard cells.

The table of all modules that moved, for those who import them, is ``docs/reference/moved.md``.
"""

from __future__ import annotations

MOVED_MODULES = {
    "agents.sb3": "plasticity_env.agents.sb3.sb3",
    "controllers": "plasticity_env.controllers",
    "controllers.ablations": "plasticity_env.agents.studies.ablations",
    "controllers.ann": "plasticity_env.controllers.ann",
    "controllers.network": "plasticity_env.controllers.network",
    "controllers.peers": "plasticity_env.controllers.planners.torch_pruning",
    "controllers.planners": "plasticity_env.controllers.planners.planner",
    "controllers.protocol": "plasticity_env.controllers.base",
    "controllers.reviving": "plasticity_env.controllers.reviving",
    "controllers.rules": "plasticity_env.controllers.rules",
    "controllers.scores": "plasticity_env.controllers.score_controller",
    "controllers.searches": "plasticity_env.controllers.planners.searches",
    "controllers.shipped": "plasticity_env.controllers.shipped",
    "controllers.tuned_rule": "plasticity_env.controllers.tuned_rule",
}


def moved(module: str) -> str:
    """Where a module is today, by the name that a file gives it."""
    return MOVED_MODULES.get(module, module)
