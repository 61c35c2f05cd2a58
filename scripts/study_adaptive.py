"""Adaptive plasticity: arms that prune and revive while the model trains, through a shift of text and back.

python scripts/study_adaptive.py --shift_dataset PATH.txt --shift_name WikiText-2
"""

from __future__ import annotations

from plasticity_env.agents.commands.study_command import COMMAND

if __name__ == "__main__":
    COMMAND.run()
