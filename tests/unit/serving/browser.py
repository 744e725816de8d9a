"""A real browser without a window, told what to do by Chromium's DevTools protocol."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import ClientConnection, connect

_PATIENCE_S = 60.0
_KEYS = {"Tab": 9, "Enter": 13}


@dataclass
class Browser:
    """One page of a running browser."""

    socket: ClientConnection
    _numbers: Iterator[int]

    def open(self, url: str, *, headers: Mapping[str, str] | None = None) -> None:
        """Go to a page and wait until all of it is there."""
        self._tell("Network.enable")
        self._tell("Network.setExtraHTTPHeaders", headers=dict(headers or {}))
        self._tell("Page.navigate", url="about:blank")
        found = self._tell("Page.navigate", url=url)
        assert "errorText" not in found, found
        deadline = time.monotonic() + _PATIENCE_S
        while self.ask("document.readyState + location.href.startsWith('about:')") != "completefalse":
            assert time.monotonic() < deadline, f"{url} is still being loaded"
            time.sleep(0.05)

    def ask(self, script: str) -> Any:
        """What a line of JavaScript gives."""
        return self._tell("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key of the keyboard."""
        said = {"key": key, "code": key, "windowsVirtualKeyCode": _KEYS[key], "text": "\r" if key == "Enter" else ""}
        for kind in ("keyDown", "keyUp"):
            self._tell("Input.dispatchKeyEvent", type=kind, **said)

    def picture(self) -> bytes:
        """The page as it is seen, as PNG."""
        return base64.b64decode(self._tell("Page.captureScreenshot", format="png")["data"])

    def _tell(self, method: str, **parameters: Any) -> Any:
        number = next(self._numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            said = json.loads(self.socket.recv(timeout=_PATIENCE_S))
            if said.get("id") == number:
                assert "error" not in said, said
                return said["result"]


@contextmanager
def browsing(folder: Path) -> Iterator[Browser]:
    """A browser whose files lie in `folder`. Without Chromium the test is skipped, and in CI it fails."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        said = "There is no Chromium on this machine: install the package chromium."
        pytest.fail(said) if os.environ.get("CI") else pytest.skip(said)
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--remote-debugging-port=0",
        "--window-size=1100,2000",
    ]
    with (folder / "output.log").open("wb") as log:
        command = [program, *options, f"--user-data-dir={folder}", "about:blank"]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        with connect(_page(folder, process), max_size=None) as socket:
            yield Browser(socket, count(1))
    finally:
        process.terminate()
        process.wait(30)


def _page(folder: Path, process: subprocess.Popen[bytes]) -> str:
    """Where to speak with the browser's page."""
    told, deadline = folder / "DevToolsActivePort", time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        if told.exists() and (lines := told.read_text().splitlines()):
            pages = httpx.get(f"http://127.0.0.1:{lines[0]}/json", timeout=30).json()
            if found := [page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page"]:
                return str(found[0])
        time.sleep(0.05)
    raise AssertionError(f"Chromium did not start:\n{(folder / 'output.log').read_text()}")
