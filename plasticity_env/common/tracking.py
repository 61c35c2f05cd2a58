"""Where a run's numbers go: JSON lines always, TensorBoard and Weights & Biases behind the same methods."""

from __future__ import annotations

import json
import math
import netrc
import os
import secrets
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from plasticity_env.common.errors import InputError, unknown
from plasticity_env.common.files import write_text

MODES = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline", "disabled": "disabled"}


@dataclass(frozen=True)
class TrackingOptions:
    """Where the numbers of a run are sent, besides its own folder."""

    track: bool = False
    """Log to Weights & Biases as well."""
    wandb_project: str = "plasticity-env"
    """The W&B project."""
    wandb_mode: str | None = None
    """"online", "offline" or "disabled"; unset: WANDB_MODE, else online where an API key is stored, else offline."""
    run_name: str | None = None
    """The name W&B shows; unset: the name of the run's folder."""
    tensorboard: bool = True
    """Write TensorBoard events under the run's folder."""


def new_run_folder(kind: str, root: Path = Path("runs"), name: str | None = None) -> Path:
    """Create the folder of a new run.

    Args:
        kind: What runs, for example ``"train"``; the folder is called ``<kind>_YYYYmmdd_HHMMSS``.
        root: Where runs lie.
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


def resolve_mode(flag: str | None) -> str:
    """Choose the W&B mode: the flag, else WANDB_MODE, else online where an API key is stored and offline where not.

    Asks no server and prompts nobody. Online without a stored API key becomes offline, with a line that says so.

    Args:
        flag: ``"online"``, ``"offline"``, ``"disabled"`` or None.

    Returns:
        ``"online"``, ``"offline"`` or ``"disabled"``.

    Raises:
        InputError: Not a mode.
    """
    asked = check_mode(flag)
    if asked is None:
        return "online" if has_api_key() else "offline"
    if MODES[asked] == "online" and not has_api_key():
        print("W&B: no API key is stored (wandb login), so this run is logged offline", file=sys.stderr)
        return "offline"
    return MODES[asked]


def check_mode(flag: str | None) -> str | None:
    """The W&B mode that is asked for, by the flag or WANDB_MODE; None where neither says one.

    Raises:
        InputError: Not a mode.
    """
    asked = flag or os.environ.get("WANDB_MODE") or None
    if asked is not None and asked not in MODES:
        raise unknown("W&B mode", asked, ("online", "offline", "disabled"), " (flag or WANDB_MODE)")
    return asked


def has_api_key() -> bool:
    """Whether WANDB_API_KEY is set or a netrc file names the W&B server."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    import wandb

    server = os.environ.get("WANDB_BASE_URL") or wandb.setup(settings=wandb.Settings(silent=True)).settings.base_url
    # The public server changed its name between versions of wandb; keys stored under the old name still serve.
    servers = [server, "https://api.wandb.ai"] if server == wandb.Settings().base_url else [server]
    hosts = [urlsplit(server).netloc for server in servers]
    named = os.environ.get("NETRC")
    files = [Path(named).expanduser()] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]
    for file in filter(Path.exists, files):
        try:
            keys = netrc.netrc(file)
        except (netrc.NetrcParseError, OSError) as error:
            print(f"W&B: {str(file)!r} cannot be read ({error}), so no API key is taken from it", file=sys.stderr)
            continue
        if any((found := keys.authenticators(host)) and found[2] for host in hosts):
            return True
    return False


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
        options: Where else the numbers go.
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
        self._rows = self.rows_path.open("a", encoding="utf-8")
        self._tensorboard = _TensorBoard(folder / "tensorboard", resume) if options.tensorboard else None
        mode = resolve_mode(options.wandb_mode) if options.track else "disabled"
        try:
            self._wandb = None if mode == "disabled" else _Wandb(folder, config, options, mode)
        except BaseException:
            self._rows.close()
            raise

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Append one row of metrics.

        Args:
            metrics: Name to number; NaN and infinities are kept (null in the JSON row).
            step: Environment steps so far, the axis of every plot.
        """
        values = {name: float(value) for name, value in metrics.items()}
        self._rows.write(json.dumps({"global_step": int(step), **_plain(values)}, allow_nan=False) + "\n")
        self._rows.flush()
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
            path: A PNG.
            step: As of `log`.
        """
        if self._tensorboard:
            self._tensorboard.picture(name, path, step)
        if self._wandb:
            self._wandb.picture(name, path, step)

    def artifact(self, name: str, folder: Path, kind: str = "controller") -> None:
        """Store a folder as a W&B artifact with the alias ``latest``; without W&B there is nothing to do.

        Args:
            name: The artifact's name: letters, digits, dashes, underscores and dots.
            folder: What it holds.
            kind: The artifact's type.

        Raises:
            InputError: There is no such folder.
        """
        if not folder.is_dir():
            raise InputError(f"artifact {name!r} cannot be stored: {str(folder)!r} is no folder")
        if self._wandb:
            self._wandb.artifact(name, folder, kind)

    def rewind(self, step: int) -> None:
        """Forget every row after ``step``, as a run must that goes on from an older checkpoint.

        W&B keeps what it was sent: the repeated steps appear there twice.
        """
        self._rows.close()
        self._drop_rows(lambda row: row["global_step"] > step)
        self._rows = self.rows_path.open("a", encoding="utf-8")
        if self._tensorboard:
            self._tensorboard.rewind(step)

    def _drop_rows(self, drop: Callable[[dict[str, Any]], bool]) -> None:
        """Rewrite the metrics without some rows, and without a last row that a crash cut off."""
        lines = self.rows_path.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = lines if not lines or lines[-1].endswith("\n") else lines[:-1]
        try:
            kept = [line for line in whole if not drop(json.loads(line))]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{str(self.rows_path)!r} holds a line that is no metrics row ({error})") from error
        if kept != lines:
            write_text(self.rows_path, "".join(kept))

    def close(self, failed: bool = False) -> None:
        """End the run; after offline W&B, print the command that uploads it. Safe to call twice."""
        self._rows.close()
        if self._tensorboard:
            self._tensorboard.close()
        if self._wandb:
            self._wandb.close(failed)
            self._wandb = None

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(failed=kind is not None)


class _TensorBoard:
    """Event files, opened at the first row so that a resumed run can purge what it repeats."""

    def __init__(self, folder: Path, resume: bool) -> None:
        self._folder = folder
        self._resume = resume
        self._purge_from: int | None = None
        self._writer: Any = None

    def log(self, metrics: dict[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._open(step).add_scalar(name, value, step)

    def picture(self, name: str, path: Path, step: int) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
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
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class _Wandb:
    """A W&B run that never prompts; its id, its row count and its offline folders outlive the process."""

    def __init__(self, folder: Path, config: dict[str, Any], options: TrackingOptions, mode: str) -> None:
        import wandb

        self._folder = folder
        self._record = folder / "wandb_run.json"
        self._offline = mode == "offline"
        known = json.loads(self._record.read_text(encoding="utf-8")) if self._record.exists() else {}
        self._id: str = known.get("id") or secrets.token_hex(4)
        self._rows: int = known.get("rows", 0)
        self._folders: list[str] = known.get("offline_folders", [])
        wandb.setup(settings=wandb.Settings(silent=True))
        try:
            self._run = wandb.init(
                project=options.wandb_project,
                name=options.run_name or folder.resolve().name,
                id=self._id,
                dir=str(folder),
                config=_plain(config),
                mode="offline" if self._offline else "online",
                resume=None if self._offline else "allow",
                settings=wandb.Settings(silent=True, console="off"),
            )
        except wandb.errors.Error as error:
            way_out = "check the key and the network, or log offline (WANDB_MODE=offline)"
            raise InputError(f"W&B did not start ({type(error).__name__}: {error}): {way_out}") from error
        if self._offline:
            self._folders.append(Path(self._run.settings.sync_dir).resolve().relative_to(folder.resolve()).as_posix())
        self._id = self._run.id  # a sweep's agent gives runs their own
        self._run.define_metric("global_step")
        self._run.define_metric("*", step_metric="global_step")
        self._save()

    def _save(self) -> None:
        state = {"id": self._id, "rows": self._rows, "offline_folders": self._folders}
        write_text(self._record, json.dumps(state, indent=1) + "\n")

    def log(self, row: dict[str, Any]) -> None:
        # Offline, wandb counts rows from 0 again in every process; synced into one run, equal counts would collide.
        self._run.log(row, step=self._rows if self._offline else None, commit=True)
        self._rows += 1
        self._save()

    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        import wandb

        self.log({name: wandb.Table(columns=[*columns], data=[*rows], allow_mixed_types=True)})

    def picture(self, name: str, path: Path, step: int) -> None:
        import wandb

        self.log({"global_step": step, name: wandb.Image(str(path))})

    def artifact(self, name: str, folder: Path, kind: str) -> None:
        import wandb

        artifact = wandb.Artifact(name, type=kind)
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):  # add_dir would print
            artifact.add_file(str(file), name=file.relative_to(folder).as_posix())
        self._run.log_artifact(artifact, aliases=["latest"])

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=1 if failed else 0)
        if self._folders:
            folders = " ".join(shlex.quote(str(self._folder / name)) for name in self._folders)
            print(f"wandb sync --id {self._id} {folders}")
