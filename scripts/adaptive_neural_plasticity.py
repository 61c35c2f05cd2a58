"""A network decides in the training loop which heads are pruned, revived and grown, and keeps learning from what that earns.

python scripts/adaptive_neural_plasticity.py --model_name bard-gpt2-4x4 --cycles 3 --pruning_level 0.2 --verbose
"""

from __future__ import annotations

from plasticity_env.agents.online.online_run import QUICK, OnlineRunConfig, run_online
from plasticity_env.common import cli


def main(config: OnlineRunConfig) -> None:
    """Let an ANN controller decide every few training steps which heads are pruned, revived and grown, and learn from it."""
    record, decider = run_online(config)
    final, control = record.summary["final"], record.summary["control"]
    rewards = [entry["reward"] for entry in decider.history if "reward" in entry]
    print(
        f"test perplexity {final['ppl']:.2f} at {final['flops_kept']:.1%} of the FLOPs, control arm {control['ppl']:.2f}"
    )
    print(f"{len(rewards)} decisions earned {sum(rewards):+.4f} nats in all")
    print(f"run: {record.folder}")


if __name__ == "__main__":
    cli.run(OnlineRunConfig, main, default=cli.quick_defaults(OnlineRunConfig(), QUICK))
