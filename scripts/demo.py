"""The main job in one go: train a controller, compare it with the rules on unseen text, write a page of pictures.

python scripts/demo.py --config scripts/configs/demo.yaml
"""

from __future__ import annotations

from plasticity_env.agents.evaluation.demo import DemoConfig, demo
from plasticity_env.common import cli


def main(config: DemoConfig) -> None:
    """Train a controller, compare it with the rules on text that none of them saw, and write dashboard.html."""
    demo(config)


if __name__ == "__main__":
    cli.run(DemoConfig, main)
