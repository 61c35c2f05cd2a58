"""Train a controller with PPO: our own, Stable-Baselines3's, or sb3-contrib's MaskablePPO.

python scripts/train_controller.py --agent ppo --model_name bard-gpt2-4x4,bard-llama-4x8 --total_timesteps 8192
"""

from __future__ import annotations

from plasticity_env.agents.train_command import train
from plasticity_env.agents.training.train_config import TrainConfig
from plasticity_env.common import cli


def main(config: TrainConfig) -> None:
    """Train a controller that prunes, revives and grows attention heads; --config FILE.yaml gives defaults."""
    folder = train(config)
    print(f"controller: {folder / 'controller'}")


if __name__ == "__main__":
    cli.run(TrainConfig, main)
