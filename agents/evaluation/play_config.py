"""Arguments of one episode."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from plasticity_env.common.arguments import flags
from plasticity_env.envs.settings import Settings
from plasticity_env.strategies.thresholds import Thresholds


@dataclass(frozen=True)
class PlayConfig:
    """Arguments of one episode."""

    controller: str = "plasticity"
    """name (ann: the shipped network, ann:untrained: a fresh one), or folder of a saved controller"""
    sparsity: float | None = None
    """share of heads to prune over the episode; unset: the controller's own choice (head_rank: a random one)"""
    aggressiveness: float = 0.3
    """share on the idle side of each threshold of the plasticity controller"""
    prune_entropy: str = "auto"
    """entropy that the plasticity controller prunes first: high, low or auto"""
    thresholds: Annotated[Thresholds, flags(Thresholds)] = Thresholds()
    """thresholds of the plasticity controller"""
    env: str = "heads"
    """heads, head_edit or head_rank"""
    settings: Annotated[Settings, flags(Settings, hidden=("pruned_share", "observation", "signals"))] = Settings(
        flop_price=4.0, horizon=4, device="auto"
    )
    """arguments of the environment"""
    test_blocks: int = 16
    """blocks of the test split that score the outcome"""
    seed: int = 0
    """seed of the episode"""
    render: str = "ansi"
    """ansi (text), human (a window) or none"""
    record: Path | None = None
    """write the episode to this JSON file, so that it can be replayed"""
