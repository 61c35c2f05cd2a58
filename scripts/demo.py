"""The main job in one go: train a controller, compare it with the rules on unseen text, write a page of pictures.

python scripts/demo.py --config scripts/configs/demo.yaml
"""

from __future__ import annotations

from plasticity_env.agents.commands.demo_command import COMMAND

if __name__ == "__main__":
    COMMAND.run()
