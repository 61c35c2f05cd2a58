"""Train, prune, measure, grow and learn, in cycles, beside a control arm that trains the same steps unpruned.

python scripts/run_neural_plasticity.py --quick_test
python scripts/run_neural_plasticity.py --model_name bard-gpt2-4x4 --pruning_strategy fisher --pruning_level 0.3
python scripts/run_neural_plasticity.py --model_name bard-gpt2-4x4 --compare_strategies
"""

from __future__ import annotations

from plasticity_env.agents.commands.run_command import COMMAND

if __name__ == "__main__":
    COMMAND.run()
