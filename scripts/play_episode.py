"""Watch a controller at work for one episode.

python scripts/play_episode.py --controller plasticity --model_name bard-gpt2-4x4 --train_steps 5
"""

from __future__ import annotations

from plasticity_env.agents.evaluation.play import PlayConfig, play
from plasticity_env.common import cli


def main(config: PlayConfig) -> None:
    """Play one episode and print every step, then the test perplexity before and after."""
    play(config)


if __name__ == "__main__":
    cli.run(PlayConfig, main)
