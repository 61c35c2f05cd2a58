"""Benchmarks that print ratios of things run side by side, one JSON line a row on standard output.

python scripts/benchmark.py step --models bard-gpt2-6x8,path/to/SmolLM2.gguf --lengths 256,1024
"""

from __future__ import annotations

from plasticity_env.agents.commands.benchmark_command import COMMAND

if __name__ == "__main__":
    COMMAND.run()
