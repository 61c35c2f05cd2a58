"""Programs that are killed to see that they go on: small command lines, and what two runs of one must have in common."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MODEL = ("--model_name", "bard-gpt2-4x4", "--max_length", "32")
BLOCKS = ("--calibration_blocks", "2", "--reward_blocks", "2")
PPO = (
    *("train", *MODEL, *BLOCKS, "--horizon", "3", "--num_steps", "4", "--num_minibatches", "1", "--update_epochs", "1"),
    *("--total_timesteps", "32", "--checkpoint_every", "1", "--tensorboard", "false"),
)
CYCLE = (
    *("--quick_test", "--max_length", "32", "--warmup_steps", "4", "--analysis_steps", "2", "--cycles", "2"),
    *("--reward_blocks", "4", "--test_blocks", "4", "--growth_warmup_steps", "2", "--sample_tokens", "4"),
)
ONLINE = [word.replace("--analysis_steps", "--analyze_steps") for word in CYCLE]
RECORD = ("metrics/*.jsonl", "metrics.jsonl", "pruning_events.json")
TRAINED = (
    "metrics.jsonl",
    "heads.jsonl",
    "episodes.jsonl",
    "decisions.jsonl",
    "checkpoint.pt",
    "controller/controller.*",
)


@dataclass(frozen=True)
class Program:
    """A program that can be killed.

    Attributes:
        command: Its command line; "{place}" stands for the folder that it is given.
        ready: File in the folder from which it can go on once it is there.
        results: Patterns of the files that must be equal.
        again: Command line that goes on; empty: the same one.
        more: Flags that are added to go on.
    """

    command: tuple[str, ...]
    ready: str
    results: tuple[str, ...]
    again: tuple[str, ...] = ()
    more: tuple[str, ...] = ()

    def line(self, place: Path, resume: bool = False) -> list[str]:
        """The command line in a folder."""
        line = (self.again or (*self.command, *self.more)) if resume else self.command
        return [word.replace("{place}", str(place)) for word in line]


PROGRAMS = {
    "train": Program(
        (*PPO, "--envs_per_model", "2", "--output_dir", "{place}"), "checkpoint.pt", TRAINED, more=("--resume",)
    ),
    "train_steps": Program(  # the model itself is trained between decisions
        (*PPO, "--envs_per_model", "1", "--train_steps", "1", "--batch_size", "2", "--output_dir", "{place}"),
        "checkpoint.pt",
        TRAINED,
        more=("--resume",),
    ),
    "es": Program(
        (
            *("es", *MODEL, *BLOCKS, "--population", "4", "--scenarios", "1", "--generations", "5", "--rounds", "2"),
            *("--output_dir", "{place}"),
        ),
        "history.json",
        ("history.json", "controller/controller.*"),
    ),
    "cycle": Program(
        ("run", *CYCLE, "--training_steps", "6", "--save_model", "--tensorboard", "false", "--output_dir", "{place}"),
        "models/resume.json",
        (*RECORD, "models/final/*.safetensors"),
        again=("run", "--resume", "{place}"),
    ),
    "grid": Program(
        ("grid", "--quick_test", "--max_length", "32", "--calibration_blocks", "2", "--output_dir", "{place}"),
        "cells.jsonl",
        ("cells.jsonl",),
    ),
    "study": Program(
        (
            *("study", "--model_name", "bard-gpt2-4x4", "--arms", "once,rule:fisher", "--seeds", "2"),
            *(
                "--stages",
                "home,home",
                "--decisions",
                "2",
                "--train_steps",
                "1",
                "--batch_size",
                "2",
                "--block_size",
                "32",
            ),
            *(*BLOCKS, "--test_blocks", "4", "--draws", "1", "--output", "{place}/cells.jsonl"),
        ),
        "cells.jsonl",
        ("cells.jsonl",),
    ),
    "leaderboard": Program(
        (
            *("leaderboard", "--models", "bard-gpt2-4x4", "--players", "fisher@4,random@1", "--shares", "0.2,0.3,0.5"),
            *("--seeds", "2", "--max_length", "32", *BLOCKS, "--test_blocks", "4", "--output", "{place}/cells.jsonl"),
        ),
        "cells.jsonl",
        ("cells.jsonl", "leaderboard.jsonl"),
    ),
    "online": Program(
        (
            *("adaptive", *ONLINE, "--finetuning_steps", "6", "--decision_every", "2"),
            *("--tensorboard", "false", "--output_dir", "{place}"),
        ),
        "models/resume.json",
        (*RECORD, "controller.pt", "pruned_model/*.safetensors", "controller/controller.*"),
        again=("adaptive", "--resume", "{place}"),
    ),
}

PRELOADED = [
    "plasticity_env.agents.cycle_cli.grid_command",
    "plasticity_env.agents.cycle_cli.plasticity_run",
    "plasticity_env.agents.es",
    "plasticity_env.agents.leaderboard.board_run",
    "plasticity_env.agents.online.online_run",
    "plasticity_env.agents.studies.adaptive.study",
    "plasticity_env.agents.train_command",
    "plasticity_env.agents.training.builders",
]
"""Modules that the programs import, the long part of their start."""
