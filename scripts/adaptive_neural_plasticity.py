"""A network decides in the training loop which heads are pruned, revived and grown, and keeps learning from what that earns.

python scripts/adaptive_neural_plasticity.py --model_name bard-gpt2-4x4 --cycles 3 --pruning_level 0.2 --verbose
"""

from __future__ import annotations

from plasticity_env.agents.commands.adaptive_command import COMMAND

if __name__ == "__main__":
    COMMAND.run()
