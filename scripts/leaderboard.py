"""Leaderboard: every player on every model, share and draw of calibration text; resumable.

python scripts/leaderboard.py --models bard-neox-5x6 --players fisher@1,fisher@4,residual_fisher@4 --shares 0.1,0.3,0.5
"""

from __future__ import annotations

from plasticity_env.agents.commands.leaderboard_command import COMMAND

if __name__ == "__main__":
    COMMAND.run()
