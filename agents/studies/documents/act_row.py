"""One act on one seed: what it came to, read from the files that its last command left."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plasticity_env.common.errors import InputError
from plasticity_env.common.jsonl_table import CellFile


@dataclass(frozen=True)
class ActRow:
    """A row of the table on one seed; perplexities are of the test split.

    Attributes:
        act, asked, model, seed: The row's place in the table.
        commands: The command lines that were played.
        dense: Perplexity before anything.
        ppl: Perplexity at the end.
        control: Perplexity of the control arm, which trained on the same tokens; None where the command has none.
        flops_kept: Share of the dense model's forward FLOPs at the end.
        pruned, revived, grown: Heads (and blocks) that were edited.
        seconds: Seconds that it took.
    """

    act: str
    asked: str
    model: str
    seed: int
    commands: list[str]
    dense: float
    ppl: float
    control: float | None
    flops_kept: float
    pruned: int
    revived: int
    grown: int
    seconds: float

    @property
    def over(self) -> float:
        """Perplexity over the control arm's (over the dense model's where there is none), less one."""
        return self.ppl / (self.dense if self.control is None else self.control) - 1


def act_rows(path: Path) -> CellFile[ActRow]:
    """The rows in a JSON lines file."""
    return CellFile(path, lambda row: ActRow(**row), "this table")


def figures(command: Sequence[str], folder: Path) -> dict[str, Any]:
    """What a command came to: the fields of `ActRow` that its files tell.

    Args:
        command: Words of the act's last command line.
        folder: Folder of the act.

    Raises:
        InputError: The command has left nothing that could be read.
    """
    read = {"grid": _of_grid, "fine-tune": _of_steps, "prune": _of_steps, "grow": _of_steps}.get(command[0], _of_run)
    return read(folder)


def _of_run(folder: Path) -> dict[str, Any]:
    path = folder / "run" / "metrics.json"
    if not path.is_file():
        raise InputError(f"the run in {str(folder)!r} left no metrics.json")
    found = json.loads(path.read_text(encoding="utf-8"))
    edits = found["edits"]
    return {
        "dense": found["baseline"]["ppl"],
        "ppl": found["final"]["ppl"],
        "control": found["control"]["ppl"],
        "flops_kept": found["final"]["flops_kept"],
        "pruned": edits["prune"],
        "revived": edits["revive"],
        "grown": edits["grow"],
    }


def _of_grid(folder: Path) -> dict[str, Any]:
    """The grid's best cell: the lowest loss over the control arm's among those with at most 90% of the FLOPs."""
    from plasticity_env.agents.cycle_cli.grid_config import CELLS
    from plasticity_env.cycle.grid.grid_plan import CONTROL
    from plasticity_env.cycle.grid.grid_run import read_cells

    cells = read_cells(folder / "grid" / CELLS)
    control = next((cell for cell in cells if cell.arm == CONTROL), None)
    pruned = [cell for cell in cells if cell.flops_kept <= 0.9]
    if control is None or not pruned:
        raise InputError(f"the grid in {str(folder)!r} has no control arm, or no cell of at most 90% of the FLOPs")
    best = min(pruned, key=lambda cell: cell.final_loss)
    back = sum(best.came_back)
    return {
        "dense": math.exp(control.pruned_loss),
        "ppl": math.exp(best.final_loss),
        "control": math.exp(control.final_loss),
        "flops_kept": best.flops_kept,
        "pruned": best.slots - best.active_heads + back,
        "revived": back if best.arm.growth == "revive" else 0,
        "grown": 0 if best.arm.growth == "revive" else back,
    }


def _of_steps(folder: Path) -> dict[str, Any]:
    """The last of the steps that pass a checkpoint on; the control is a dense model that took the same last step."""
    from plasticity_env.model.checkpoints import load_checkpoint

    notes = {name: load_checkpoint(folder / f"{name}.pth").notes["history"] for name in ("tuned", "control")}
    results = {entry["step"]: entry["result"] for entry in notes["tuned"]}
    last = notes["tuned"][-1]["result"]["after"]
    return {
        "dense": results["prune"]["before"]["perplexity"],
        "ppl": last["perplexity"],
        "control": notes["control"][-1]["result"]["after"]["perplexity"],
        "flops_kept": last["flops_kept"],
        "pruned": len(results["prune"]["pruned_heads"]),
        "revived": 0,
        "grown": len(results.get("expand", {}).get("grown_heads", [])),
    }
