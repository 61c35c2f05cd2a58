"""A headless Chromium, driven over its debugging protocol: pages that stay connected have no end that one could wait for."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Tab:
    """The one tab of a browser.

    Attributes:
        complaints: What the console and the content-security policy said.
    """

    def __init__(self, socket: Any) -> None:
        self._socket, self._number = socket, 0
        self.complaints: list[str] = []

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        await self._socket.write_message(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            told = await self._socket.read_message()
            assert told is not None, "the browser went away"
            message = json.loads(told)
            if message.get("method") == "Runtime.exceptionThrown":
                self.complaints.append(str(message["params"]["exceptionDetails"]))
            if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                self.complaints.append(message["params"]["entry"]["text"])
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]

    async def says(self, expression: str) -> Any:
        """What an expression of JavaScript is, as JSON."""
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, expression: str) -> None:
        """Wait until an expression is true; the test's own limit ends it."""
        while not await self.says(expression):
            await asyncio.sleep(0.1)

    async def screenshot(self, path: Path) -> None:
        """The whole page, as a PNG."""
        high = await self.says("document.documentElement.scrollHeight")
        wide = await self.says("innerWidth")
        clip = {"x": 0, "y": 0, "width": wide, "height": high, "scale": 1}
        shot = await self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@asynccontextmanager
async def opened(url: str, profile: Path, width: int, dark: bool) -> AsyncIterator[Tab]:
    """A page in a browser of its own, as wide as is said, in light or dark colours."""
    from tornado.httpclient import AsyncHTTPClient
    from tornado.websocket import websocket_connect

    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += [f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            port_file = profile / "DevToolsActivePort"
            while not (port_file.is_file() and port_file.read_text().count("\n")):
                assert process.poll() is None, "the browser did not start"
                await asyncio.sleep(0.1)
            port = port_file.read_text().splitlines()[0]
            pages: list[dict[str, Any]] = []
            while not pages:
                answer = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{port}/json")
                pages = [page for page in json.loads(answer.body) if page["type"] == "page"]
            socket = await websocket_connect(pages[0]["webSocketDebuggerUrl"], max_message_size=2**27)
            tab = Tab(socket)
            for domain in ("Page", "Runtime", "Log"):
                await tab.call(f"{domain}.enable")
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
            await tab.call("Emulation.setDeviceMetricsOverride", **size)
            scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
            await tab.call("Emulation.setEmulatedMedia", features=scheme)
            await tab.call("Page.navigate", url=url)
            yield tab
            socket.close()
        finally:
            process.terminate()
            process.wait()
