"""Make the README's pictures from a demo's run folder.

python scripts/make_pictures.py --demo runs/demo --output_dir docs/pictures
"""

from __future__ import annotations

from plasticity_env.agents.commands.pages_command import COMMAND

if __name__ == "__main__":
    COMMAND.run()
