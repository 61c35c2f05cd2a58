"""From arguments to a running page: the folders first, then the socket, then requests."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from fastapi import FastAPI

from plasticity_env.agents.serving.listening import hosts_of, in_url, listen
from plasticity_env.agents.serving.quiet_server import QuietServer
from plasticity_env.agents.watching.run_lines import RunLines
from plasticity_env.agents.watching.watch_app import Closing, make_watch_app
from plasticity_env.agents.watching.watch_config import WatchConfig
from plasticity_env.common.values import user_path


def watch(config: WatchConfig) -> None:
    """Show runs until Ctrl-C.

    Raises:
        InputError: A folder without lines, or the port is taken.
    """
    folders = [user_path(run, "a run folder") for run in config.runs]
    for folder in folders:
        RunLines(folder)  # says so where there is nothing to show
    with listen(config.host, config.port) as listening:
        address, port = listening.getsockname()[:2]
        hosts, closing = hosts_of(config.host, address), Closing()
        app = make_watch_app(dict(zip(names_of(folders), folders, strict=True)), closing, config.every, hosts)
        url = f"http://{in_url(address)}:{port}/"
        if not hosts:
            print(f"anyone who reaches {address} can see these runs: the page asks for no key", file=sys.stderr)
        print(f"page: {url} (Ctrl-C ends it)", flush=True)
        server_of(app, closing).serve_on(listening, url if config.browser else "")


def server_of(app: FastAPI, closing: Closing) -> QuietServer:
    """A server that ends the streams before it waits for their connections.

    Args:
        app: See `make_watch_app`.
        closing: What the streams look at.
    """

    async def end_streams() -> None:
        closing.set()

    return QuietServer(app, end_streams)


def names_of(folders: Sequence[Path]) -> list[str]:
    """What runs are called: as much of the end of their paths as tells them apart; two that are one folder get a number.

    Args:
        folders: Folders of the runs.
    """
    paths = [folder.resolve() for folder in folders]
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(names)) == len(set(paths)):
            break
    seen: dict[str, int] = {}
    for place, name in enumerate(names):
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1:
            names[place] = f"{name} ({seen[name]})"
    return names
