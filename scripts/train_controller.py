"""Train a controller with PPO: our own, Stable-Baselines3's, or sb3-contrib's MaskablePPO.

python scripts/train_controller.py --agent ppo --model_name bard-gpt2-4x4,bard-llama-4x8 --total_timesteps 8192
"""

from __future__ import annotations

from plasticity_env.agents.commands.train_command import COMMAND

if __name__ == "__main__":
    COMMAND.run()
