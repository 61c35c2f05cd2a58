"""``plasticity tune``: search for PPO's arguments with Optuna, on this machine."""

from __future__ import annotations

from plasticity_env.agents.commands.command import Command
from plasticity_env.agents.tuning.study_config import StudyConfig


def main(config: StudyConfig) -> None:
    """Search for arguments of PPO in short trainings; the same command again goes on with the study."""
    from plasticity_env.agents.tuning.optuna_study import tune

    print(tune(config))


COMMAND = Command("tune", StudyConfig, main)
