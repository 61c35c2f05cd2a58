"""Where a run's numbers go: JSON lines always, TensorBoard and Weights & Biases behind the same methods."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from plasticity_env.common.digests import checked_line, line_values
from plasticity_env.common.errors import InputError
from plasticity_env.common.files import LineFile, write_text
from plasticity_env.common.packages import missing
from plasticity_env.common.tensorboard_run import TensorBoardRun
from plasticity_env.common.wandb_run import WandbPlace, WandbRun, group_of, resolve_mode, use_writable_home

METRICS, HEADS, EPISODES = GROWING = ("metrics", "heads", "episodes")
"""The files of a run that grow by a row at a time, without ``.jsonl``."""


@dataclass(frozen=True)
class TrackingOptions:
    """Where the numbers of a run are sent, besides its own folder."""

    track: bool = False
    """Log to Weights & Biases as well."""
    wandb_project: str = "plasticity-env"
    """The W&B project."""
    wandb_mode: str | None = None
    """"online", "offline" or "disabled"; unset: WANDB_MODE, otherwise online if an API key is stored and offline if not."""
    wandb_group: str | None = None
    """The group that W&B shows the run in; unset: the sweep or the study that it belongs to, if any."""
    run_name: str | None = None
    """The name W&B shows; unset: the name of the run's folder."""
    tensorboard: bool = True
    """Write TensorBoard events under the run's folder."""


def new_run_folder(kind: str, root: Path = Path("runs"), name: str | None = None) -> Path:
    """Create the folder of a new run.

    Args:
        kind: What runs, for example ``"train"``; the folder is called ``<kind>_YYYYmmdd_HHMMSS``.
        root: Folder of all runs.
        name: A name of the caller's choice instead.

    Returns:
        The folder, which did not exist before.

    Raises:
        InputError: A run of this ``name`` exists already.
    """
    stem = name or f"{kind}_{time.strftime('%Y%m%d_%H%M%S')}"
    count = 1
    while True:
        folder = root / (stem if count == 1 else f"{stem}_{count}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            if name:
                raise InputError(f"a run called {name!r} exists in {str(root)!r}: choose another name") from None
            count += 1


@dataclass(frozen=True)
class EpisodeStep:
    """One step of an episode, as it is replayed.

    Attributes:
        active: A row for each layer, 1 where a unit is active after the step.
        note: What was done, in a few words.
        numbers: What came of it, by name: ``reward``, ``ppl``, ``flops_kept``, ...
    """

    active: Sequence[Sequence[float]]
    note: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)


def holds_run(folder: Path) -> bool:
    """Whether something was logged there; a run that was cut before its first row left nothing to lose."""
    rows = folder / "metrics.jsonl"
    return rows.is_file() and any(path.stat().st_size > 0 for path in folder.glob("*.jsonl"))


def _plain(value: Any) -> Any:
    """``value`` as strict JSON can hold it: numpy scalars unwrapped, NaN and infinities as null, the rest as text."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _short(grid: Sequence[Sequence[float]]) -> list[list[float]]:
    """A grid with whole numbers where they are whole, which half the length of a line."""
    return [[int(entry) if entry in (0, 1) else float(entry) for entry in row] for row in grid]


class Tracker:
    """Writes a run's metrics to its folder, and to TensorBoard and W&B where the options say so.

    In the folder: ``config.json``, ``metrics.jsonl``, ``heads.jsonl`` and ``episodes.jsonl`` (a row a call of `log`, `heads`
    and `episode`), ``NAME.jsonl`` (one for each `table`), ``tensorboard/`` and ``wandb/`` with ``wandb_run.json``, the identity
    that a resumed run takes up again.

    Args:
        folder: The run's folder; made if missing.
        config: Everything that was decided before the run, after defaults were filled in.
        options: Options that say where else the numbers go.
        resume: Go on with the run that the folder holds.
        program: What runs, for example ``"train"``: W&B shows it as the job's type, and names artifacts after it.

    Raises:
        InputError: The folder holds a run and ``resume`` is false, or W&B cannot start.
    """

    def __init__(
        self, folder: Path, config: dict[str, Any], options: TrackingOptions, resume: bool = False, program: str = ""
    ) -> None:
        self.folder, self._program = folder, program
        self.rows_path = folder / f"{METRICS}.jsonl"
        if not resume and holds_run(folder):
            raise InputError(
                f"{str(folder)!r} holds a run already: resume it (where there is --resume) or choose another folder"
            )
        write_text(folder / "config.json", json.dumps(_plain(config), indent=1) + "\n")
        if resume:
            self._drop_rows(lambda row: False)
        self._files = {METRICS: LineFile(self.rows_path)}
        lacking = missing("tensorboard", "track") if options.tensorboard else None
        if lacking:
            print(f"{lacking}; metrics.jsonl is written all the same", file=sys.stderr)
        wanted = options.tensorboard and not lacking
        self._tensorboard = TensorBoardRun(folder / "tensorboard", _plain(config), resume) if wanted else None
        try:
            self._wandb = self._open_wandb(config, options) if options.track else None
        except BaseException:
            self._close_files()
            raise

    def _open_wandb(self, config: dict[str, Any], options: TrackingOptions) -> WandbRun | None:
        use_writable_home(self.folder / "wandb" / "home")
        mode = resolve_mode(options.wandb_mode)
        if mode == "disabled":
            return None
        name = options.run_name or self.folder.resolve().name
        place = WandbPlace(options.wandb_project, name, group_of(options.wandb_group), self._program or None)
        return WandbRun(self.folder, _plain(config), place, mode)

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Append one row of metrics.

        Args:
            metrics: Name to number; NaN and infinities are kept (null in the JSON row).
            step: Environment steps so far, the axis of every plot.
        """
        values = {name: float(value) for name, value in metrics.items()}
        self._append(METRICS, {"global_step": int(step), **values})
        self._send(values, step)

    def heads(
        self, active: Sequence[Sequence[float]], step: int, model: str = "", head_columns: int | None = None
    ) -> None:
        """Append which heads are active; TensorBoard and W&B get their number by layer, ``heads/MODEL/layer_0`` and so on.

        Args:
            active: A row for each layer; 1 where a unit is active, or the share of texts for which it is.
            step: As of `log`.
            model: Short name of the language model.
            head_columns: Columns that are heads, the further ones being MLP blocks; None: all.
        """
        grid = [[float(entry) for entry in row] for row in active]
        count = len(grid[0]) if head_columns is None else head_columns
        self._append(HEADS, {"global_step": int(step), "model": model, "heads": count, "active": _short(grid)})
        inside = f"{model}/" if model else ""
        self._send({f"heads/{inside}layer_{layer}": sum(row[:count]) for layer, row in enumerate(grid)}, step)

    def episode(
        self,
        steps: Sequence[EpisodeStep],
        step: int,
        model: str = "",
        title: str = "",
        head_columns: int | None = None,
    ) -> None:
        """Append an episode that is over, to be replayed step by step.

        Args:
            steps: The start, then each step.
            step: As of `log`: when it was played.
            model: Short name of the language model.
            title: What kind of episode it is, for example its price.
            head_columns: As of `heads`.
        """
        count = len(steps[0].active[0]) if head_columns is None else head_columns
        told = [{"active": _short(each.active), "note": each.note, "numbers": dict(each.numbers)} for each in steps]
        row = {"global_step": int(step), "model": model, "title": title, "heads": count, "steps": told}
        self._append(EPISODES, row)

    def _append(self, name: str, row: dict[str, Any]) -> None:
        if name not in self._files:
            self._files[name] = LineFile(self.folder / f"{name}.jsonl")
        self._files[name].write(checked_line(_plain(row)) + "\n")

    def _send(self, values: dict[str, float], step: int) -> None:
        if self._tensorboard:
            self._tensorboard.log(values, int(step))
        if self._wandb:
            self._wandb.log({"global_step": int(step), **values})

    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        """Write a whole table, replacing the one of this name.

        Args:
            name: File stem and W&B key.
            columns: Column names.
            rows: One list a row, in the order of ``columns``.

        Raises:
            InputError: A row is longer or shorter than ``columns``, or the name is taken.
        """
        if name in GROWING:
            raise InputError(f"a table cannot be called {name!r}: that file holds the run's {name}")
        plain = [_plain(row) for row in rows]
        for row in plain:
            if len(row) != len(columns):
                raise InputError(f"a row of table {name!r} has {len(row)} entries, not {len(columns)}: {row!r}")
        lines = [json.dumps(dict(zip(columns, row, strict=True)), allow_nan=False) + "\n" for row in plain]
        write_text(self.folder / f"{name}.jsonl", "".join(lines))
        if self._wandb:
            self._wandb.table(name, columns, plain)

    def picture(self, name: str, path: Path, step: int) -> None:
        """Show a picture in TensorBoard and W&B; the run's folder holds it already.

        Args:
            name: What it is called there.
            path: File of a PNG.
            step: Step, as `log` takes it.
        """
        if self._tensorboard:
            self._tensorboard.picture(name, path, step)
        if self._wandb:
            self._wandb.picture(name, path, step)

    def artifact(self, part: str, path: Path) -> None:
        """Store a file or a folder as a W&B artifact; without W&B there is nothing to do.

        It is called ``PROGRAM-PART``, as ``train-controller`` and ``cycle-dashboard``, and its type is the part; its version
        has the aliases ``latest`` and the run's name. Where W&B cannot take it, one line says so: the files themselves are there.

        Args:
            part: What it is of the run: ``"controller"``, ``"dashboard"``, ``"model"``, ...
            path: The file, or the folder with all that it holds.

        Raises:
            InputError: There is nothing at the path.
        """
        if not path.exists():
            raise InputError(f"artifact {part!r} cannot be stored: there is nothing at {str(path)!r}")
        if self._wandb:
            self._wandb.artifact(f"{self._program}-{part}" if self._program else part, path, part)

    def rewind(self, step: int) -> None:
        """Forget every row after ``step``, as a run must that goes on from an older checkpoint.

        W&B keeps what it was sent: the repeated steps appear there twice.
        """
        self._close_files()
        self._drop_rows(lambda row: row["global_step"] > step)
        self._files = {METRICS: LineFile(self.rows_path)}
        if self._tensorboard:
            self._tensorboard.rewind(step)

    def _drop_rows(self, drop: Callable[[dict[str, Any]], bool]) -> None:
        """Rewrite the files that grow without some rows, and without a last row that a crash cut off."""
        for path in (self.folder / f"{name}.jsonl" for name in GROWING):
            if not path.exists():
                continue
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            whole = lines if not lines or lines[-1].endswith("\n") else lines[:-1]
            try:
                kept = [line for line in whole if not drop(line_values(line))]
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{str(path)!r} holds a line that is not a {path.stem} row ({error})") from error
            if kept != lines:
                write_text(path, "".join(kept))

    def _close_files(self) -> None:
        for file in self._files.values():
            file.close()

    def settle(self) -> None:
        """End the rows and TensorBoard's files: nothing but artifacts may follow. Safe to call twice."""
        self._close_files()
        board, self._tensorboard = self._tensorboard, None
        if board:
            board.close()

    def close(self, failed: bool = False) -> None:
        """End the run; after offline W&B, print the command that uploads it. Safe to call twice."""
        wandb, self._wandb = self._wandb, None
        try:
            self.settle()
        finally:
            if wandb:
                wandb.close(failed)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
            return
        with suppress(OSError):  # the disk is full: that was said already
            self.close(failed=True)
