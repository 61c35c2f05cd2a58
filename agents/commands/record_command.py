"""``plasticity record``: write episodes as a Minari data set, for offline learners."""

from __future__ import annotations

from plasticity_env.agents.commands.command import Command
from plasticity_env.agents.offline.record_config import RecordConfig


def main(config: RecordConfig) -> None:
    """Play episodes of an expert, of chance or of both, and write them as a Minari data set."""
    from plasticity_env.agents.offline.recording import record

    print(record(config))


COMMAND = Command("record", RecordConfig, main)
