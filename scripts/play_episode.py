"""Watch a controller at work for one episode.

python scripts/play_episode.py --controller plasticity --model_name bard-gpt2-4x4 --train_steps 5
"""

from __future__ import annotations

from plasticity_env.agents.commands.play_command import COMMAND

if __name__ == "__main__":
    COMMAND.run()
