"""A real browser for tests: Chromium through chromedriver's own protocol, which is JSON over HTTP (W3C WebDriver)."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
MISSING = "needs Chromium and chromedriver (Debian: apt-get install chromium chromium-driver)"
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-device-scale-factor=1",
)
_PATIENCE = 60.0
"""Seconds for the driver to come up on a busy machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Browser:
    """One window."""

    session: str
    """Address of the session."""

    def open(self, page: Path, fragment: str = "") -> None:
        self._ask("POST", "/url", {"url": page.resolve().as_uri() + fragment})

    def run(self, script: str, *arguments: Any) -> Any:
        """What the body of a function returns in the page."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def console(self) -> list[str]:
        """Everything that went wrong since the last call."""
        return [entry["message"] for entry in self._ask("POST", "/se/log", {"type": "browser"})]

    def size(self, width: int, height: int) -> None:
        self._ask("POST", "/window/rect", {"width": width, "height": height})

    def dark(self, wanted: bool) -> None:
        feature = {"name": "prefers-color-scheme", "value": "dark" if wanted else "light"}
        self.devtools("Emulation.setEmulatedMedia", {"features": [feature]})

    def devtools(self, command: str, parameters: dict[str, Any]) -> Any:
        """One command of the DevTools protocol."""
        return self._ask("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def picture(self, path: Path) -> Path:
        path.write_bytes(base64.b64decode(self._ask("GET", "/screenshot", None)))
        return path

    def _ask(self, method: str, place: str, body: Any) -> Any:
        return _ask(method, self.session + place, body)


def _ask(method: str, address: str, body: Any) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data=data, method=method, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.loads(answer.read())["value"]
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{method} {address}: {json.loads(error.read())['value']['message']}") from error


@contextmanager
def opened_browser() -> Iterator[Browser]:
    """A browser with a profile of its own, closed at the end."""
    assert CHROMIUM
    assert DRIVER
    with tempfile.TemporaryDirectory() as profile:
        driver = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            address = f"http://127.0.0.1:{_port(driver)}"
            options = {"binary": CHROMIUM, "args": [*_FLAGS, f"--user-data-dir={profile}"]}
            wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
            session = _ask("POST", f"{address}/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
            yield Browser(session=f"{address}/session/{session}")
            _ask("DELETE", f"{address}/session/{session}", None)
        finally:
            driver.terminate()
            driver.wait()
            assert driver.stdout
            driver.stdout.close()


def _port(driver: subprocess.Popen[str]) -> int:
    """The port that the driver chose, from what it says of itself."""
    assert driver.stdout
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        line = driver.stdout.readline()
        if "started successfully on port" in line:
            return int(line.strip().rstrip(".").rpartition(" ")[2])
    raise AssertionError("chromedriver did not start")
