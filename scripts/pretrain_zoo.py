"""Pretrain the embedded language models on Shakespeare.

    python scripts/pretrain_zoo.py --models bard-gpt2-4x4,bard-llama-4x8 --minutes 15

Writes `text/` and `models/<name>/` under --output_dir; after an interruption run it again with --resume.
"""

from __future__ import annotations

from plasticity_env.agents.commands.pretrain_command import COMMAND

if __name__ == "__main__":
    COMMAND.run()
