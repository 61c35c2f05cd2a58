"""A run on Weights & Biases: whether and how, and that nothing that fails there costs the run itself."""

from __future__ import annotations

import json
import netrc
import os
import secrets
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from plasticity_env.common.errors import InputError, first_line, unknown
from plasticity_env.common.files import write_text

MODES = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline", "disabled": "disabled"}


def use_writable_home(instead: Path) -> None:
    """Where W&B's folders in the user's home cannot be written, let this process use others; no server is asked.

    Args:
        instead: Holds them then. Offline runs need what is staged there when they are uploaded, so that it should stay.
    """
    from wandb import env

    usual = {
        env.DATA_DIR: Path(env.get_data_dir()),  # artifacts are staged there
        env.CACHE_DIR: Path(env.get_cache_dir()),
        env.CONFIG_DIR: Path("~/.config/wandb").expanduser(),
    }
    for variable, place in usual.items():
        if variable not in os.environ and not _writable(place):
            os.environ[variable] = str((instead / variable.split("_")[1].lower()).absolute())


def _writable(folder: Path) -> bool:
    """Whether a file can be made in a folder, or in what there is of the folders that lead to it."""
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        tempfile.TemporaryFile(dir=nearest).close()
    except OSError:
        return False
    return True


def resolve_mode(flag: str | None) -> str:
    """Choose the W&B mode: the flag, else WANDB_MODE, else online where an API key is stored and offline where not.

    Asks no server and prompts nobody. Online without a stored API key becomes offline, with a line that says so.

    Args:
        flag: ``"online"``, ``"offline"``, ``"disabled"`` or None.

    Returns:
        ``"online"``, ``"offline"`` or ``"disabled"``.

    Raises:
        InputError: If it is no mode.
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
        InputError: If it is no mode.
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


class WandbRun:
    """A W&B run that never prompts; its id, its row count and its offline folders outlive the process.

    What W&B cannot take is said in one line, and the run goes on.

    Args:
        folder: Folder of the run.
        config: Arguments of the run, as strict JSON can hold them.
        project, name: Project and name on W&B.
        mode: "online" or "offline".

    Raises:
        InputError: W&B did not start.
    """

    def __init__(self, folder: Path, config: dict[str, Any], project: str, name: str, mode: str) -> None:
        import wandb

        self._folder = folder
        self._record = folder / "wandb_run.json"
        self._offline = mode == "offline"
        known = json.loads(self._record.read_text(encoding="utf-8")) if self._record.exists() else {}
        self._id: str = known.get("id") or secrets.token_hex(4)
        self._rows: int = known.get("rows", 0)
        self._folders: list[str] = known.get("offline_folders", [])
        self._refused = False
        wandb.setup(settings=wandb.Settings(silent=True))
        try:
            self._run = wandb.init(
                project=project,
                name=name,
                id=self._id,
                dir=str(folder),
                config=config,
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

    def log(self, row: dict[str, Any]) -> None:
        """Send a row of metrics."""
        self._send(lambda: row)

    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        """Send a table."""
        import wandb

        self._send(lambda: {name: wandb.Table(columns=[*columns], data=[*rows], allow_mixed_types=True)})

    def picture(self, name: str, path: Path, step: int) -> None:
        """Send a picture."""
        import wandb

        self._send(lambda: {"global_step": step, name: wandb.Image(str(path))})

    def artifact(self, name: str, folder: Path, kind: str) -> None:
        """Store a folder."""
        import wandb

        def store() -> None:
            artifact = wandb.Artifact(name, type=kind)
            for file in sorted(path for path in folder.rglob("*") if path.is_file()):  # add_dir would print
                artifact.add_file(str(file), name=file.relative_to(folder).as_posix())
            self._run.log_artifact(artifact, aliases=["latest"])

        self._try(store, f"does not hold the artifact {name!r}, which is {str(folder)!r}")

    def close(self, failed: bool) -> None:
        """End the run; offline, print the command that uploads it."""
        self._try(lambda: self._run.finish(exit_code=1 if failed else 0), "may lack the run's end")
        if self._folders:
            folders = " ".join(shlex.quote(str(self._folder / name)) for name in self._folders)
            print(f"wandb sync --id {self._id} {folders}")

    def _send(self, make: Callable[[], dict[str, Any]]) -> None:
        if self._refused:
            return
        # Offline, wandb counts rows from 0 again in every process; synced into one run, equal counts would collide.
        step = self._rows if self._offline else None
        what = f"lacks the rows from here on, which are in {str(self._folder)!r}"
        self._refused = not self._try(lambda: self._run.log(make(), step=step, commit=True), what)
        if not self._refused:
            self._rows += 1
            self._save()

    def _try(self, act: Callable[[], object], what: str) -> bool:
        """Whether W&B did it; else one line says what it lacks."""
        try:
            act()
        except Exception as error:  # of any kind: a run is worth more than its copy
            print(f"W&B {what} ({first_line(error)})", file=sys.stderr)
            return False
        return True

    def _save(self) -> None:
        state = {"id": self._id, "rows": self._rows, "offline_folders": self._folders}
        write_text(self._record, json.dumps(state, indent=1) + "\n")
