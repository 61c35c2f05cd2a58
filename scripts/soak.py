"""Play many episodes in one process and print how its memory goes, and what grew.

python scripts/soak.py --episodes 1500
"""

from __future__ import annotations

from plasticity_env.agents.benchmarks.soaking import Look, SoakConfig, soak
from plasticity_env.common import cli


def main(config: SoakConfig) -> None:
    """Print a line for every look at the memory, and how much the second half of the episodes added."""
    looks: list[Look] = []
    print(
        f"{'episodes':>8} {'resident':>9} {'tensors':>9} {'remembered':>10} {'prefixes':>9}  grown since the last line"
    )
    for seen in soak(config):
        grown = seen.grown(looks[-1]) if looks else ""
        looks.append(seen)
        sizes = f"{seen.resident_mb:6.0f} MB {seen.tensor_mb:6.1f} MB {seen.remembered:10} {seen.prefix_mb:6.1f} MB"
        print(f"{seen.episodes:8} {sizes}  {grown}", flush=True)
    if len(looks) > 1:
        middle, last = looks[len(looks) // 2], looks[-1]
        print(
            f"from episode {middle.episodes} to {last.episodes}: {last.resident_mb - middle.resident_mb:+.1f} MB resident, "
            f"grown {last.grown(middle)}"
        )


if __name__ == "__main__":
    cli.run(SoakConfig, main)
