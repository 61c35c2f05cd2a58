"""``plasticity adaptive``: let a network decide in the training loop, and keep learning."""

from __future__ import annotations

from plasticity_env.agents.commands.command import Command
from plasticity_env.agents.online.online_arguments import QUICK, OnlineRunConfig


def main(config: OnlineRunConfig) -> None:
    """Let an ANN controller decide every few training steps which heads are pruned, revived and grown, and learn from it."""
    from plasticity_env.agents.online.online_run import run_online

    record, decider = run_online(config)
    final, control = record.summary["final"], record.summary["control"]
    rewards = [entry["reward"] for entry in decider.history if "reward" in entry]
    print(
        f"test perplexity {final['ppl']:.2f} at {final['flops_kept']:.1%} of the FLOPs, control arm {control['ppl']:.2f}"
    )
    print(f"{len(rewards)} decisions earned {sum(rewards):+.4f} nats in all")
    print(f"run: {record.folder}")


COMMAND = Command("adaptive", OnlineRunConfig, main, QUICK)
