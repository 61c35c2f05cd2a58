"""The files of a run: what an experiment writes, and how pages and tables read it.

A run folder holds ``config.json`` (settings, command, machine, versions, status), ``experiment.log``, ``metrics.json`` (the
summary), ``metrics/{steps,evaluations,phases,signals}.jsonl``, ``metrics/samples.json``, ``warmup/stabilisation.json`` and
``pruning_events.json``. Rows are appended and flushed, whole files are replaced atomically, and readers take what is
there: a run that was cut is shown up to there.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from plasticity_env.common.digests import checked_line, rows_of
from plasticity_env.common.errors import InputError
from plasticity_env.common.files import LineFile, write_text
from plasticity_env.common.values import user_path
from plasticity_env.cycle.run_rows import (
    CONTROL,
    EvaluationRow,
    PhaseRow,
    PruningEvent,
    Sample,
    SignalsRow,
    Stabilisation,
    StepRow,
)

STATUSES = ("running", "finished", "stopped", "failed")
FOLDERS = ("warmup", "pruning", "fine_tuning", "metrics", "visualizations", "dashboards", "models")
CONFIG, SUMMARY, LOG = "config.json", "metrics.json", "experiment.log"
TRACKED = {"tracked": "metrics.jsonl", "heads": "heads.jsonl", "episodes": "episodes.jsonl"}  # the tracker's
STABILISATION, EVENTS, SAMPLES = "warmup/stabilisation.json", "pruning_events.json", "metrics/samples.json"


R = TypeVar("R")
_TABLES = ("steps", "evaluations", "phases", "signals")
POSITIONS = (*_TABLES, "events", "samples", "tracked")  # what a run counts, so that it can be rewound


class RunWriter:
    """Writes a run folder; every row is on disk when the call returns.

    Args:
        folder: Made if missing, with the folders that a run has.

    Raises:
        InputError: What it holds already is damaged, and would be lost.
        OSError: Nothing can be written there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in FOLDERS:
            (folder / name).mkdir(parents=True, exist_ok=True)
        for name in (EVENTS, SAMPLES):
            _refuse_damaged(folder / name)
        self.events: list[PruningEvent] = _read_list(folder / EVENTS, PruningEvent)
        self.samples: list[Sample] = _read_list(folder / SAMPLES, Sample)
        self._open: dict[str, LineFile] = {}

    def config(self, values: dict[str, Any]) -> None:
        """Replace ``config.json``; it must say a ``status`` of `STATUSES`."""
        assert values["status"] in STATUSES
        _write_json(self.folder / CONFIG, values)

    def status(self, status: str, **more: Any) -> None:
        """Change the status in ``config.json`` (and other entries of it)."""
        self.config({**_read_json(self.folder / CONFIG, {}), "status": status, **more})

    def summary(self, values: dict[str, Any]) -> None:
        """Replace ``metrics.json``."""
        _write_json(self.folder / SUMMARY, values)

    def step(self, row: StepRow) -> None:
        """Append an optimizer step."""
        self._append("steps", row)

    def evaluation(self, row: EvaluationRow) -> None:
        """Append an evaluation."""
        self._append("evaluations", row)

    def phase(self, row: PhaseRow) -> None:
        """Append a phase that is over."""
        self._append("phases", row)

    def signals(self, row: SignalsRow) -> None:
        """Append what a measuring pass saw."""
        self._append("signals", row)

    def cycle_file(self, phase: str, cycle: int, values: dict[str, Any]) -> None:
        """Replace ``<phase>/cycle_<cycle>.json``: what a phase of one cycle came to."""
        _write_json(self.folder / phase / f"cycle_{cycle}.json", values)

    def stabilisation(self, found: Stabilisation) -> None:
        """Replace ``warmup/stabilisation.json``."""
        _write_json(self.folder / STABILISATION, asdict(found))

    def add_events(self, events: Iterable[PruningEvent]) -> None:
        """Add edits to ``pruning_events.json``."""
        self.events += events
        _write_json(self.folder / EVENTS, [asdict(event) for event in self.events])

    def add_sample(self, sample: Sample) -> None:
        """Add a text to ``metrics/samples.json``."""
        self.samples.append(sample)
        _write_json(self.folder / SAMPLES, [asdict(each) for each in self.samples])

    def log(self, line: str) -> None:
        """Append a line, with the time, to ``experiment.log``."""
        self._write(LOG, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    def position(self) -> dict[str, int]:
        """How many rows of each kind are written, for `rewind`."""
        counts = {name: len(_lines(self.folder / _table_file(name))) for name in _TABLES}
        tracked = {name: len(_lines(self.folder / file)) for name, file in TRACKED.items()}
        return {**counts, "events": len(self.events), "samples": len(self.samples), **tracked}

    def rewind(self, position: dict[str, int]) -> None:
        """Forget every row after a `position`, as a run must that goes on from there.

        Raises:
            InputError: A file holds fewer rows than that, or a line that is no row; nothing is changed.
        """
        self.close()
        files = {name: self.folder / _table_file(name) for name in _TABLES}
        files |= {name: self.folder / file for name, file in TRACKED.items()}
        rows = {name: _lines(path) for name, path in files.items()}
        for name, path in files.items():
            rows_of(rows[name], path)  # a line that is none was never written by a run, and would be lost
        held = {name: len(lines) for name, lines in rows.items()}
        held |= {"events": len(self.events), "samples": len(self.samples)}
        places = files | {"events": self.folder / EVENTS, "samples": self.folder / SAMPLES}
        for name, path in places.items():
            if held[name] < position.get(name, 0):  # a position from before there was a file of heads begins it
                raise InputError(
                    f"{str(path)!r} holds {held[name]} rows, the run's checkpoint is {position[name]} rows in: the run cannot "
                    "go on without them"
                )
        for name, path in files.items():
            if path.exists():
                write_text(path, "".join(line + "\n" for line in rows[name][: position.get(name, 0)]))
        self.events = self.events[: position["events"]]
        self.samples = self.samples[: position["samples"]]
        self.add_events([])
        if self.samples or (self.folder / SAMPLES).exists():
            _write_json(self.folder / SAMPLES, [asdict(each) for each in self.samples])

    def close(self) -> None:
        """Close the files; the next row opens them again."""
        for file in self._open.values():
            file.close()
        self._open.clear()

    def _append(self, table: str, row: Any) -> None:
        self._write(_table_file(table), checked_line(plain(asdict(row))) + "\n")

    def _write(self, name: str, line: str) -> None:
        if name not in self._open:
            self._open[name] = LineFile(self.folder / name)
        self._open[name].write(line)


@dataclass(frozen=True)
class RunRecord:
    """Everything that a run folder says; parts that are not there are empty.

    Attributes:
        folder: Folder that it was read from.
        config: Settings, command, machine, versions, status.
        summary: Content of ``metrics.json``.
        steps, evaluations, phases, signals: Rows in the order of writing.
        stabilisation: How the warm-up was judged; None before that.
        events: All edits.
        samples: Texts that the models wrote.
    """

    folder: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    steps: list[StepRow]
    evaluations: list[EvaluationRow]
    phases: list[PhaseRow]
    signals: list[SignalsRow]
    stabilisation: Stabilisation | None
    events: list[PruningEvent]
    samples: list[Sample]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings, whether the configuration holds them in a part of their own or beside the rest."""
        held = self.config.get("settings")
        return held if isinstance(held, dict) else {k: v for k, v in self.config.items() if not isinstance(v, dict)}

    @property
    def has_control(self) -> bool:
        """Whether anything was measured of the control arm."""
        return any(row.arm == CONTROL for rows in (self.steps, self.evaluations) for row in rows)

    @classmethod
    def read(cls, folder: str | Path) -> RunRecord:
        """Read a run, finished or cut.

        Raises:
            InputError: The folder holds no run, or a line of it is damaged.
        """
        folder = user_path(folder)
        if not (folder / CONFIG).is_file():
            raise InputError(f"no run at {str(folder)!r}: give the folder of an experiment, with its {CONFIG}")
        stable, config, summary = (_read_json(folder / name, {}) for name in (STABILISATION, CONFIG, SUMMARY))
        if not all(isinstance(part, dict) for part in (stable, config, summary)):
            raise InputError(f"{str(folder)!r} holds no run: its files are JSON of another shape")
        try:
            return cls._made(folder, config, summary, stable)
        except (TypeError, AttributeError) as error:
            raise InputError(
                f"{str(folder)!r} holds no run: a file of it is JSON of another shape ({error})"
            ) from error

    @classmethod
    def _made(cls, folder: Path, config: dict[str, Any], summary: dict[str, Any], stable: dict[str, Any]) -> RunRecord:
        return cls(
            folder,
            config,
            summary,
            _read_table(folder, "steps", StepRow),
            _read_table(folder, "evaluations", EvaluationRow),
            _read_table(folder, "phases", PhaseRow),
            _read_table(folder, "signals", SignalsRow),
            _make(Stabilisation, stable) if stable else None,
            _read_list(folder / EVENTS, PruningEvent),
            _read_list(folder / SAMPLES, Sample),
        )


def plain(value: Any) -> Any:
    """``value`` as strict JSON can hold it: paths as text, numbers that are not finite as null."""
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _table_file(name: str) -> str:
    return f"metrics/{name}.jsonl"


def _write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(plain(value), indent=1, allow_nan=False) + "\n")


def _read_json(path: Path, missing: Any) -> Any:
    """What a file holds; ``missing`` where there is none, or none that can be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return missing


def _refuse_damaged(path: Path) -> None:
    """Refuse a file of rows that is there and cannot be read: writing it anew would lose what it held."""
    if path.exists() and not isinstance(_read_json(path, None), list):
        raise InputError(f"{str(path)!r} is damaged: it is no list of rows")


def _lines(path: Path) -> list[str]:
    """Whole lines; one that a crash cut off does not count."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    return text[: text.rfind("\n") + 1].splitlines()


def _make(kind: type[R], values: dict[str, Any]) -> R:
    """A row of a mapping; entries that the row has no place for are left out, so that older readers go on."""
    names = {entry.name: entry for entry in fields(kind)}  # type: ignore[arg-type]
    numbers = {name for name, entry in names.items() if entry.type == "float"}
    return kind(**{k: math.nan if v is None and k in numbers else v for k, v in values.items() if k in names})


def _read_table(folder: Path, name: str, kind: type[R]) -> list[R]:
    rows = []
    path = folder / _table_file(name)
    for values in rows_of(_lines(path), path):
        try:
            rows.append(_make(kind, values))
        except TypeError:  # of a version whose rows said less
            continue
    return rows


def _read_list(path: Path, kind: type[R]) -> list[R]:
    return [_make(kind, values) for values in _read_json(path, [])]
