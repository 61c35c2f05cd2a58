"""Search the thresholds of the classic rule by CMA-ES; ``controllers.make("plasticity_tuned")`` plays what is shipped.

python scripts/tune_plasticity.py --generations 8 --output runs/plasticity.json
"""

from __future__ import annotations

from plasticity_env.agents.commands.tune_rule_command import COMMAND

if __name__ == "__main__":
    COMMAND.run()
