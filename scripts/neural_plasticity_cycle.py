"""The plasticity cycle stage by stage: perplexity before and after each phase, active heads, improvement over cycles.

python scripts/neural_plasticity_cycle.py --model_name bard-gpt2-4x4 --dataset tiny_shakespeare --pruning_strategy fisher \\
    --growth_strategy gradient_sensitivity --cycles 3 --initial_pruning 0.3 --growth_ratio 0.5 --new_head_lr_multiplier 5
"""

from __future__ import annotations

from plasticity_env.agents.commands.cycle_command import COMMAND

if __name__ == "__main__":
    COMMAND.run()
