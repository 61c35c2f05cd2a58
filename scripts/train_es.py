"""Search a linear ranking of heads by CMA-ES: the black-box peer of the policy gradients.

python scripts/train_es.py --model_name bard-gpt2-4x4,bard-llama-4x8 --generations 40 --output_dir runs/es
"""

from __future__ import annotations

from plasticity_env.agents.commands.es_command import COMMAND

if __name__ == "__main__":
    COMMAND.run()
