"""Kill long programs in the middle, let them go on, and compare with runs that were never killed.

python scripts/kill_test.py --kills 20
"""

from __future__ import annotations

from plasticity_env.agents.kill_trials import KillConfig, run
from plasticity_env.common import cli

if __name__ == "__main__":
    cli.run(KillConfig, run)
