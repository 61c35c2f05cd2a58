"""What a run of the cycle sends where its numbers go: heads after each phase, an episode, decisions, what it leaves."""

from __future__ import annotations

from pathlib import Path

from plasticity_env.common.tracking import Tracker
from plasticity_env.cycle.record import RunRecord
from plasticity_env.cycle.run_episode import DECISIONS, decision_rows, run_episode
from plasticity_env.cycle.summary import CYCLE_PHASES
from plasticity_env.model.loading import LoadedModel

KEPT = {"controller": "controller", "dashboard": "dashboards"}  # artifact: folder of the run, where it has one


def track_phase(
    tracker: Tracker, folder: Path, loaded: LoadedModel, found: dict[str, float], step: int, phase: str
) -> None:
    """Write what is left after a phase; a cycle's last one ends an episode.

    Args:
        tracker: The run's tracker.
        folder: Folder of the run, whose record holds this phase.
        loaded: The model as it is.
        found: What the phase's evaluation found.
        step: Optimizer steps so far.
        phase: Name of the phase.
    """
    model = loaded.model
    tracker.log(found, step)
    tracker.heads(model.active.int().tolist(), step, loaded.name, model.heads)
    steps = run_episode(RunRecord.read(folder)) if phase == CYCLE_PHASES[-1] else []
    if steps:
        tracker.episode(steps, step, loaded.name, "the run, phase by phase", model.heads)


def track_decisions(tracker: Tracker, folder: Path) -> None:
    """Write every edit of the run as a table."""
    tracker.table("decisions", DECISIONS, decision_rows(RunRecord.read(folder)))


def track_artifacts(tracker: Tracker, folder: Path) -> None:
    """Store the run's page, and its controller where it has one."""
    for part, name in KEPT.items():
        if any(folder.glob(f"{name}/*")):
            tracker.artifact(part, folder / name)
