"""``plasticity prune``: prune heads of a model, and write a checkpoint."""

from __future__ import annotations

from plasticity_env.agents.commands.command import Command
from plasticity_env.steps.step_arguments import PruneConfig


def main(config: PruneConfig) -> None:
    """Prune a model's heads, or its heads and MLP blocks, and write it as a checkpoint."""
    from plasticity_env.agents.flop_pruning import prune_to_flops, recover
    from plasticity_env.steps.file_pruning import prune_heads

    path, said = prune_heads(config) if config.flops is None else prune_to_flops(config)
    print("\n".join(said), flush=True)
    if config.recover:
        print("\n".join(recover(config, path)))
    print(f"checkpoint: {path}")


COMMAND = Command("prune", PruneConfig, main)
