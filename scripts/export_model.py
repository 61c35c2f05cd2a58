"""Write a pruned model as files that others can load.

python scripts/export_model.py --model_name bard-llama-4x8 --pruning_level 0.25 --format uniform --output_path runs/small
"""

from __future__ import annotations

from plasticity_env.agents.commands.export_command import COMMAND

if __name__ == "__main__":
    COMMAND.run()
