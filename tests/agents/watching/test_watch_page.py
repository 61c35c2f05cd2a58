"""The page that follows runs: what it serves over a real socket, and how it looks and behaves in a browser."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="FastAPI is not installed: pip install 'plasticity-env[serve]'")
pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'plasticity-env[serve]'")

import httpx

from plasticity_env.agents.serving.listening import LOOPBACK, listen
from plasticity_env.agents.serving.request_gate import POLICY
from plasticity_env.agents.watching.watch_app import Closing, make_watch_app
from plasticity_env.agents.watching.watch_config import WatchConfig
from plasticity_env.agents.watching.watch_server import server_of, watch
from plasticity_env.common.errors import InputError
from plasticity_env.common.tracking import EpisodeStep, Tracker, TrackingOptions
from tests.agents.watching.browser import CHROMIUM, opened

PLAIN = TrackingOptions(tensorboard=False)
HOSTILE = "<script>alert(1)</script>"
ALL, ONE_LESS = [[1, 1, 1]] * 2, [[1, 0, 1], [1, 1, 1]]


@pytest.fixture
def tracker(tmp_path: Path) -> Iterator[Tracker]:
    """A run that goes on."""
    with Tracker(tmp_path / f"first {HOSTILE.replace('/', '')}", {}, PLAIN) as tracker:
        for step in (8, 16):
            tracker.log({"episode/return": step / 100, HOSTILE: 1.0}, step)
            tracker.heads(ALL if step == 8 else ONE_LESS, step, HOSTILE, 2)
        steps = [EpisodeStep(ALL, "the start", {"ppl": 30.0}), EpisodeStep(ONE_LESS, HOSTILE, {"reward": 0.25})]
        tracker.episode(steps, 16, HOSTILE, "price 1", 2)
        yield tracker


@pytest.fixture
def url(tracker: Tracker, tmp_path: Path) -> Iterator[str]:
    """A server of that run, and of one that is over."""
    with Tracker(tmp_path / "second", {}, PLAIN) as other:
        other.log({"episode/return": 0.5}, 4)
        other.heads(ALL, 4, "toy")
    closing = Closing()
    runs = {tracker.folder.name: tracker.folder, "second": other.folder}
    app = make_watch_app(runs, closing, 0.05, LOOPBACK)
    with listen("127.0.0.1", 0) as listening:
        server = server_of(app, closing)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def test_everything_is_told_and_then_what_comes(url: str, tracker: Tracker) -> None:
    seen = []
    with httpx.stream("GET", f"{url}/events", timeout=60) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["content-security-policy"] == POLICY
        for line in answer.iter_lines():
            if not line.startswith("data: "):
                continue
            seen.append(json.loads(line.removeprefix("data: ")))
            if seen[-1]["kind"] == "caught up":
                tracker.log({"late": 1.0}, 24)
            if seen[-1].get("rows", [{}])[-1].get("global_step") == 24:
                break
    assert seen[0] == {"kind": "start", "runs": [tracker.folder.name, "second"]}
    told = [(event["run"], event["file"], len(event["rows"])) for event in seen if event["kind"] == "rows"]
    assert told == [
        (0, "metrics", 2),
        (0, "heads", 2),
        (0, "episodes", 1),
        (1, "metrics", 1),
        (1, "heads", 1),
        (0, "metrics", 1),
    ]
    assert [event["kind"] for event in seen].index("caught up") == len(seen) - 2


def test_the_page_keeps_names_as_text_and_its_files_are_its_own(url: str) -> None:
    page = httpx.get(url)
    assert page.headers["content-security-policy"] == POLICY
    assert HOSTILE[:8] not in page.text.replace('<script src="watch', "")
    assert "first &lt;script&gt;" in page.text
    for name, kind in (
        ("watch.css", "text/css"),
        ("watch.js", "text/javascript"),
        ("watch_drawing.js", "text/javascript"),
    ):
        assert httpx.get(f"{url}/{name}").headers["content-type"].startswith(kind)
        assert name in page.text
    assert httpx.get(f"{url}/../metrics.jsonl").status_code == 404
    assert httpx.get(url, headers={"Host": "stranger.example"}).status_code == 400
    assert httpx.post(url, content=b"x").status_code == 413


def test_a_port_in_use_and_a_folder_without_lines_are_one_sentence(tracker: Tracker, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} of 127.0.0.1 is in use: choose another with --port"):
            watch(WatchConfig((str(tracker.folder),), port=port))
    with pytest.raises(InputError, match="holds no lines of a run"):
        watch(WatchConfig((str(tmp_path),)))


@pytest.mark.slow
def test_the_command_serves_until_it_is_told_to_end(tracker: Tracker) -> None:
    """Slow: a process of its own."""
    command = [sys.executable, "-m", "plasticity_env", "watch", str(tracker.folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("page: http://127.0.0.1:"), process.communicate()
        with httpx.stream("GET", line.split()[1] + "events", timeout=60) as answer:
            next(answer.iter_lines())
            process.send_signal(signal.SIGINT)
            out, err = process.communicate()
    assert (process.returncode, out, err) == (130, "", "stopped\n")


LIVE = "document.getElementById('state')?.textContent.startsWith('Live')"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: the page is not opened in a browser")
@pytest.mark.parametrize(("width", "dark"), [(390, True), (1280, False)], ids=["phone-dark", "wide-light"])
def test_page_works_in_a_browser(url: str, tracker: Tracker, tmp_path: Path, width: int, dark: bool) -> None:
    """Slow: a browser starts."""
    pytest.importorskip("tornado", reason="tornado is not installed: the page is not opened in a browser")
    asyncio.run(_look(url, tracker, tmp_path, width, dark))


async def _look(url: str, tracker: Tracker, tmp_path: Path, width: int, dark: bool) -> None:
    async with opened(url, tmp_path / "profile", width, dark) as tab:
        await tab.until(LIVE)
        await tab.until("document.querySelectorAll('#heads .card').length === 2")
        assert await tab.says("[...document.querySelectorAll('#curves h3')].map(h => h.textContent)") == [
            "episode/return",
            HOSTILE,
        ]
        assert await tab.says("document.querySelectorAll('#curves figure')[0].querySelectorAll('path').length") == 2
        assert await tab.says("document.querySelectorAll('#episodes .changed').length") == 1  # the last step is shown
        await tab.says("const a = document.getElementById('at'); a.value = 0; a.dispatchEvent(new Event('input'))")
        assert await tab.says("document.querySelectorAll('#episodes .changed').length") == 0
        assert "step 0: the start" in await tab.says("document.getElementById('episodes').textContent")
        await tab.says("a.value = 1; a.dispatchEvent(new Event('input'))")
        assert f"step 1: {HOSTILE}" in await tab.says("document.getElementById('episodes').textContent")
        assert "reward 0.25" in await tab.says("document.getElementById('episodes').textContent")
        tracker.log({"episode/return": 0.9}, 24)
        tracker.heads([[0, 0, 1], [1, 1, 1]], 24, HOSTILE, 2)
        await tab.until("document.getElementById('when-says').textContent === 'step 24'")  # it follows
        assert "2 of 4 heads, 2 of 2 MLP blocks" in await tab.says("document.getElementById('heads').textContent")
        await tab.says("const w = document.getElementById('when'); w.value = 1; w.dispatchEvent(new Event('input'))")
        assert "step 8: 4 of 4 heads" in await tab.says("document.getElementById('heads').textContent")
        tracker.rewind(8)
        await tab.until("document.querySelectorAll('#runs td')[0].textContent === '8'")
        colours = await tab.says("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
        assert (max(colours) < 128) == dark
        assert await tab.says("document.documentElement.scrollWidth <= innerWidth")
        await tab.says(
            "const f = document.getElementById('filter'); f.value = 'RETURN'; f.dispatchEvent(new Event('input'))"
        )
        assert await tab.says("document.querySelectorAll('#curves figure').length") == 1
        assert tab.complaints == []
