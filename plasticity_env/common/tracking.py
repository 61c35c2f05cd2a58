"""Where a run's numbers go: JSON lines always, TensorBoard and Weights & Biases behind the same methods."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from plasticity_env.common.errors import InputError
from plasticity_env.common.files import LineFile, naming, write_text
from plasticity_env.common.packages import missing
from plasticity_env.common.wandb_run import WandbRun, resolve_mode, use_writable_home


@dataclass(frozen=True)
class TrackingOptions:
    """Where the numbers of a run are sent, besides its own folder."""

    track: bool = False
    """Log to Weights & Biases as well."""
    wandb_project: str = "plasticity-env"
    """The W&B project."""
    wandb_mode: str | None = None
    """"online", "offline" or "disabled"; unset: WANDB_MODE, otherwise online if an API key is stored and offline if not."""
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


class Tracker:
    """Writes a run's metrics to its folder, and to TensorBoard and W&B where the options say so.

    In the folder: ``config.json``, ``metrics.jsonl`` (a row a call of `log`), ``NAME.jsonl`` (one for each `table`),
    ``tensorboard/`` and ``wandb/`` with ``wandb_run.json``, the identity that a resumed run takes up again.

    Args:
        folder: The run's folder; made if missing.
        config: Everything that was decided before the run, after defaults were filled in.
        options: Options that say where else the numbers go.
        resume: Go on with the run that the folder holds.

    Raises:
        InputError: The folder holds a run and ``resume`` is false, or W&B cannot start.
    """

    def __init__(self, folder: Path, config: dict[str, Any], options: TrackingOptions, resume: bool = False) -> None:
        self.folder = folder
        self.rows_path = folder / "metrics.jsonl"
        if not resume and holds_run(folder):
            raise InputError(
                f"{str(folder)!r} holds a run already: resume it (where there is --resume) or choose another folder"
            )
        write_text(folder / "config.json", json.dumps(_plain(config), indent=1) + "\n")
        if resume and self.rows_path.exists():
            self._drop_rows(lambda row: False)
        self._rows = LineFile(self.rows_path)
        lacking = missing("tensorboard", "track") if options.tensorboard else None
        if lacking:
            print(f"{lacking}; metrics.jsonl is written all the same", file=sys.stderr)
        wanted = options.tensorboard and not lacking
        self._tensorboard = _TensorBoard(folder / "tensorboard", resume) if wanted else None
        try:
            self._wandb = self._open_wandb(config, options) if options.track else None
        except BaseException:
            self._rows.close()
            raise

    def _open_wandb(self, config: dict[str, Any], options: TrackingOptions) -> WandbRun | None:
        use_writable_home(self.folder / "wandb" / "home")
        mode = resolve_mode(options.wandb_mode)
        if mode == "disabled":
            return None
        name = options.run_name or self.folder.resolve().name
        return WandbRun(self.folder, _plain(config), options.wandb_project, name, mode)

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Append one row of metrics.

        Args:
            metrics: Name to number; NaN and infinities are kept (null in the JSON row).
            step: Environment steps so far, the axis of every plot.
        """
        values = {name: float(value) for name, value in metrics.items()}
        self._rows.write(json.dumps({"global_step": int(step), **_plain(values)}, allow_nan=False) + "\n")
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
        if name == self.rows_path.stem:
            raise InputError(f"a table cannot be called {name!r}: that file holds the run's metrics")
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

    def artifact(self, name: str, folder: Path, kind: str = "controller") -> None:
        """Store a folder as a W&B artifact with the alias ``latest``; without W&B there is nothing to do.

        Where W&B cannot take it, one line says so: the folder itself is there.

        Args:
            name: The artifact's name: letters, digits, dashes, underscores and dots.
            folder: What it holds.
            kind: The artifact's type.

        Raises:
            InputError: There is no such folder.
        """
        if not folder.is_dir():
            raise InputError(f"artifact {name!r} cannot be stored: {str(folder)!r} is not a folder")
        if self._wandb:
            self._wandb.artifact(name, folder, kind)

    def rewind(self, step: int) -> None:
        """Forget every row after ``step``, as a run must that goes on from an older checkpoint.

        W&B keeps what it was sent: the repeated steps appear there twice.
        """
        self._rows.close()
        self._drop_rows(lambda row: row["global_step"] > step)
        self._rows = LineFile(self.rows_path)
        if self._tensorboard:
            self._tensorboard.rewind(step)

    def _drop_rows(self, drop: Callable[[dict[str, Any]], bool]) -> None:
        """Rewrite the metrics without some rows, and without a last row that a crash cut off."""
        lines = self.rows_path.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = lines if not lines or lines[-1].endswith("\n") else lines[:-1]
        try:
            kept = [line for line in whole if not drop(json.loads(line))]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{str(self.rows_path)!r} holds a line that is not a metrics row ({error})") from error
        if kept != lines:
            write_text(self.rows_path, "".join(kept))

    def close(self, failed: bool = False) -> None:
        """End the run; after offline W&B, print the command that uploads it. Safe to call twice."""
        self._rows.close()
        wandb, self._wandb = self._wandb, None
        try:
            if self._tensorboard:
                self._tensorboard.close()
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


class _TensorBoard:
    """Event files, opened at the first row so that a resumed run can purge what it repeats."""

    def __init__(self, folder: Path, resume: bool) -> None:
        self._folder = folder
        self._resume = resume
        self._purge_from: int | None = None
        self._writer: Any = None

    def log(self, metrics: dict[str, float], step: int) -> None:
        with naming(self._folder):
            for name, value in metrics.items():
                self._open(step).add_scalar(name, value, step)

    def picture(self, name: str, path: Path, step: int) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(path) as image, naming(self._folder):
            self._open(step).add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def _open(self, step: int) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            purge = self._purge_from if self._purge_from is not None else step if self._resume else None
            self._writer = SummaryWriter(str(self._folder), purge_step=purge)
        return self._writer

    def rewind(self, step: int) -> None:
        self.close()
        self._purge_from = step + 1

    def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            with naming(self._folder):
                writer.close()
