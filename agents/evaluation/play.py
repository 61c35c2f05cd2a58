"""One episode, shown step by step: for looking at what a controller does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np

from plasticity_env import controllers
from plasticity_env.agents.evaluation.play_config import PlayConfig
from plasticity_env.agents.training.agent import ENVIRONMENTS
from plasticity_env.common.arguments import check_counts
from plasticity_env.common.errors import InputError, unknown


def play(config: PlayConfig) -> None:
    """Play an episode and print each step, then the test perplexity before and after.

    Raises:
        InputError: Arguments that cannot be used.
    """
    if config.env not in ENVIRONMENTS:
        raise unknown("environment", config.env, ENVIRONMENTS)
    check_counts(config, seed=0, test_blocks=1)
    if config.render not in ("ansi", "human", "none"):
        raise InputError(f"unknown render {config.render!r}: use ansi, human or none")
    if config.sparsity is not None and not 0 <= config.sparsity < 1:
        raise InputError(f"sparsity must lie in [0, 1), got {config.sparsity!r}")
    if config.sparsity is not None and config.controller == "plasticity" and config.env != "head_rank":
        raise InputError(
            "plasticity prunes what its thresholds say, not a share: leave --sparsity out (--aggressiveness moves them), or "
            "choose another --controller"
        )
    controller = _controller(config)
    settings = replace(config.settings, signals=controller.signals)
    if config.env == "head_rank" and config.sparsity is not None:
        settings = replace(settings, pruned_share=config.sparsity)
    mode = None if config.render == "none" else config.render
    env: gym.Env[Any, Any] = gym.make(ENVIRONMENTS[config.env], render_mode=mode, **settings.kwargs())
    base: Any = env.unwrapped
    there = len(base.workbench.text.blocks("test"))
    if config.test_blocks > there:
        raise InputError(f"test_blocks {config.test_blocks} is more than the {there} of the test split")
    observation, info = env.reset(seed=config.seed)
    controller.reset(config.seed)
    dense = base.evaluate("test", config.test_blocks)
    _print(env, config, 0, 0.0, info)
    over, step = False, 0
    while not over:
        observation, reward, terminated, truncated, info = env.step(controller.act(observation))
        over, step = terminated or truncated, step + 1
        _print(env, config, step, float(reward), info)
    after = base.evaluate("test", config.test_blocks)
    kept = info["flops"] / base.dense_flops
    print(f"test perplexity {np.exp(dense):.2f} -> {np.exp(after):.2f} at {kept:.1%} of the dense FLOPs")
    if config.record is not None:
        base.episode_record().save(config.record)
        print(f"record: {config.record}")
    env.close()


def _controller(config: PlayConfig) -> controllers.Controller:
    options: dict[str, Any] = {}
    if config.controller == "plasticity":
        options = {"aggressiveness": config.aggressiveness, "prune_entropy": config.prune_entropy}
        options |= config.thresholds.options()
    elif config.sparsity is not None and config.env != "head_rank":
        options = {"sparsity": config.sparsity, "rounds": config.settings.horizon}
    return controllers.make(config.controller, **options)


def _print(env: gym.Env[Any, Any], config: PlayConfig, step: int, reward: float, info: dict[str, Any]) -> None:
    picture = env.render() if config.render == "ansi" else ""
    print(f"step {step}  reward {reward:+.4f}  invalid {info['invalid_actions']}\n{picture or ''}", flush=True)
