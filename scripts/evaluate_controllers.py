"""Compare controllers on text that none of them saw: perplexity against FLOPs.

python scripts/evaluate_controllers.py --model_name bard-llama-6x8 --controllers random,fisher,plasticity --seeds 3
"""

from __future__ import annotations

from plasticity_env.agents.commands.evaluate_command import COMMAND

if __name__ == "__main__":
    COMMAND.run()
