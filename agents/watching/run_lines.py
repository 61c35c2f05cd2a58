"""The lines of a run as a page needs them: metrics, heads and episodes, checked, since a folder may come from a stranger."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from plasticity_env.agents.watching.line_tail import LineTail
from plasticity_env.common.digests import line_values
from plasticity_env.common.errors import InputError
from plasticity_env.common.tracking import EPISODES, GROWING, HEADS, METRICS

Row = dict[str, Any]
Event = dict[str, Any]
SIGNALS = Path("metrics") / "signals.jsonl"  # of a cycle that ran before there was a file of heads
LARGEST = 2**53  # largest whole number that a page can tell from the next


class RunLines:
    """Reads a run's files again and again.

    Args:
        folder: Folder of the run.

    Raises:
        InputError: Nothing was ever logged there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        paths = {name: folder / f"{name}.jsonl" for name in GROWING}
        if not any(path.is_file() for path in paths.values()):
            raise InputError(
                f"{str(folder)!r} holds no lines of a run: name the folder of one, with its {METRICS}.jsonl"
            )
        older = not paths[HEADS].exists() and (folder / SIGNALS).is_file()
        self._parse: dict[str, Callable[[Any], Row]] = {METRICS: _metrics, HEADS: _heads, EPISODES: _episode}
        if older:
            paths[HEADS], self._parse[HEADS] = folder / SIGNALS, _signals
        self._tails = {name: LineTail(path) for name, path in paths.items()}
        self._counts = dict.fromkeys(GROWING, 0)

    def news(self) -> Iterator[Event]:
        """What came since the last call: ``anew`` (forget a file's rows), ``rows`` of a file, ``problem`` (a line that is none).

        Of the episodes only the last one of each model is told.
        """
        for name, tail in self._tails.items():
            more = True
            while more:
                read = tail.read()
                more = read.more
                if read.anew:
                    self._counts[name] = 0
                    yield {"kind": "anew", "file": name}
                rows, bad = [], None
                for line in read.lines:
                    self._counts[name] += 1
                    try:
                        rows.append(self._parse[name](line_values(line)))
                    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
                        bad = bad or self._counts[name]
                if name == EPISODES:
                    rows = list({row["model"]: row for row in rows}.values())
                if rows:
                    yield {"kind": "rows", "file": name, "rows": rows}
                if bad:
                    yield {
                        "kind": "problem",
                        "said": f"line {bad} of {tail.path.name} is not a row of {name}: left out",
                    }


def _metrics(row: Any) -> Row:
    step = _step(row["global_step"])
    return {"global_step": step} | {
        name: _number(value) for name, value in row.items() if name != "global_step" and _is_number(value)
    }


def _heads(row: Any) -> Row:
    grid = _grid(row["active"])
    columns = row.get("heads", len(grid[0]))
    return {**_about(row), "heads": _columns(columns, grid), "active": grid}


def _signals(row: Any) -> Row:
    grid = _grid(row["active"])
    return {"global_step": _step(row["step"]), "model": "", "heads": len(grid[0]), "active": grid}


def _episode(row: Any) -> Row:
    steps: list[Row] = [
        {
            "active": _grid(step["active"]),
            "note": _text(step.get("note", "")),
            "numbers": {
                str(name): _number(value) for name, value in step.get("numbers", {}).items() if _is_number(value)
            },
        }
        for step in row["steps"]
    ]
    first = steps[0]["active"] if steps else []
    if not steps or any([len(line) for line in step["active"]] != [len(line) for line in first] for step in steps):
        raise ValueError("no steps, or steps of several models")
    columns = _columns(row.get("heads", len(first[0])), first)
    return {**_about(row), "title": _text(row.get("title", "")), "heads": columns, "steps": steps}


def _about(row: Any) -> Row:
    return {"global_step": _step(row["global_step"]), "model": _text(row.get("model", ""))}


def _step(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -LARGEST <= value <= LARGEST:
        raise ValueError("not a step")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value[:300]


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _number(value: float | None) -> float | None:
    """A number as strict JSON holds it."""
    return None if value is None or not math.isfinite(value) else float(value)


def _grid(rows: Any) -> list[list[float]]:
    grid = [[float(entry) for entry in row] for row in rows]
    if not grid or not grid[0] or len({len(row) for row in grid}) > 1:
        raise ValueError("not a grid")
    if not all(0 <= entry <= 1 for row in grid for entry in row):
        raise ValueError("not shares")
    return grid


def _columns(value: Any, grid: list[list[float]]) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= len(grid[0]):
        raise ValueError("not a number of columns")
    return value
