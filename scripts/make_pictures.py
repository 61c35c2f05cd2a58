"""Make the pictures of README and documentation.

python scripts/make_pictures.py --demo runs/demo --output_dir docs/pictures
python scripts/make_pictures.py --only episode
"""

from __future__ import annotations

from plasticity_env.agents.commands.pages_command import COMMAND

if __name__ == "__main__":
    COMMAND.run()
