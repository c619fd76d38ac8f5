"""Headless Chromium for tests: a page opened from disk, what it asked for, said and shows.

Chromium's own protocol over a pair of pipes; no driver, no port. Nothing but files can be reached: every host
name is unresolvable.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

ANSWER_S = 60.0
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--remote-debugging-pipe",
)
# Chromium reads commands from file descriptor 3 and answers on 4
ON_PIPES = """
import os, sys
read, write = os.dup(int(sys.argv[1])), os.dup(int(sys.argv[2]))
far = os.dup2(read, 200), os.dup2(write, 201)
os.dup2(far[0], 3)
os.dup2(far[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
LONG_TASKS = """
window.longTasks = [];
const keep = (each) => window.longTasks.push([each.startTime, each.duration]);
const watch = (list) => list.getEntries().forEach(keep);
new PerformanceObserver(watch).observe({type: "longtask", buffered: true});
window.violations = [];
const refused = (each) => window.violations.push(each.violatedDirective);
document.addEventListener("securitypolicyviolation", refused);
"""


def program() -> str | None:
    """Where Chromium is, or None."""
    return shutil.which("chromium")


class Tab:
    """One page: `requests` are the addresses it asked for, `console` what it said, errors and all else."""

    def __init__(self, browser: Browser, session: str, downloads: Path) -> None:
        self._browser = browser
        self._session = session
        self.downloads = downloads
        self.requests: list[str] = []
        self.console: list[str] = []

    def call(self, method: str, **parameters: Any) -> Any:
        """The answer to one command of the protocol."""
        return self._browser.call(method, self._session, **parameters)

    @property
    def is_loaded(self) -> bool:
        """Whether the last page that was asked for is there whole."""
        return self._session in self._browser.loaded

    def wait(self, true: Callable[[], bool], what: str) -> None:
        """Go on as soon as something is true: asked after every answer of the browser."""
        end_s = time.monotonic() + ANSWER_S
        while not true():
            assert time.monotonic() < end_s, f"it took too long: {what}"
            self._browser.call("Browser.getVersion")

    def js(self, expression: str) -> Any:
        """The value of an expression in the page; an exception there is an AssertionError here."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def open(self, address: str) -> None:
        """Load an address, and wait until it is there whole and has been painted."""
        self._browser.loaded.discard(self._session)
        answer = self.call("Page.navigate", url=address)
        assert "errorText" not in answer, answer
        if "loaderId" in answer:  # none where only the fragment changed
            self._browser.wait(lambda: self._session in self._browser.loaded, f"{address} to load")
        self.js("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)))")

    def key(self, name: str, text: str = "") -> None:
        """Press and release one key."""
        codes = {
            "Tab": 9,
            "Enter": 13,
            "Escape": 27,
            "ArrowLeft": 37,
            "ArrowUp": 38,
            "ArrowRight": 39,
            "ArrowDown": 40,
        }
        told = {"key": name, "code": name, "windowsVirtualKeyCode": codes.get(name, 0)}
        down = {"text": "\r"} if name == "Enter" else {"text": text} if text else {}
        self.call("Input.dispatchKeyEvent", type="keyDown" if down else "rawKeyDown", **told, **down)
        self.call("Input.dispatchKeyEvent", type="keyUp", **told)

    def size(self, width: int, height: int = 900) -> None:
        """The size of the window; narrow ones are a phone's."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )

    def prefer(self, scheme: str, media: str = "") -> None:
        """What the person prefers, "light" or "dark"; `media` "print" shows what is printed."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """Keep a screenshot: of the whole page, or of what fits the window."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def pdf(self) -> bytes:
        """The page as it is printed."""
        answer = self.call("Page.printToPDF", printBackground=False, preferCSSPageSize=True)
        return base64.b64decode(answer["data"])


class Browser:
    """One Chromium with an empty profile, ended with the test."""

    def __init__(self, folder: Path, chromium: str) -> None:
        to_read, self._to = os.pipe()
        self._from, to_write = os.pipe()
        command = [sys.executable, "-c", ON_PIPES, str(to_read), str(to_write), chromium]
        self._log = (folder / "chromium.log").open("wb")
        self._process = subprocess.Popen(
            [*command, *FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"],
            pass_fds=(to_read, to_write),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
            env={
                **os.environ,
                "HOME": str(folder),
                "XDG_CONFIG_HOME": str(folder),
                "XDG_CACHE_HOME": str(folder),
            },
        )
        os.close(to_read)
        os.close(to_write)
        self._folder = folder
        self._numbers = itertools.count(1)
        self._buffer = b""
        self._answers: dict[int, Any] = {}
        self._tabs: dict[str, Tab] = {}
        self.loaded: set[str] = set()

    def close(self) -> None:
        """End Chromium and what it started."""
        with suppress(OSError):
            os.close(self._to)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._from)
        self._log.close()

    def tab(self) -> Tab:
        """A new empty page that watches what it asks for and says."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = self._tabs[session] = Tab(self, session, self._folder / f"downloads-{len(self._tabs)}")
        for domain in ("Page", "Runtime", "Network", "Log", "DOM", "CSS", "Accessibility"):
            tab.call(f"{domain}.enable")
        tab.call("Page.addScriptToEvaluateOnNewDocument", source=LONG_TASKS)
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tab.downloads))
        return tab

    def call(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        """The answer to one command."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        self.wait(lambda: number in self._answers, method)
        answer = self._answers.pop(number)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def wait(self, true: Callable[[], bool], what: str) -> None:
        """Read what comes until something is true."""
        end_s = time.monotonic() + ANSWER_S
        while not true():
            left_s = end_s - time.monotonic()
            ready, _, _ = select.select([self._from], [], [], max(0.0, left_s))
            data = os.read(self._from, 1 << 20) if ready else b""
            assert data, f"Chromium did not answer: {what}\n{self._said()}"
            *messages, self._buffer = (self._buffer + data).split(b"\0")
            for message in messages:
                self._take(json.loads(message))

    def _said(self) -> str:
        return (self._folder / "chromium.log").read_text(errors="replace")[-2000:]

    def _take(self, message: dict[str, Any]) -> None:
        if "id" in message:
            self._answers[message["id"]] = message
            return
        tab, said = self._tabs.get(message.get("sessionId", "")), message.get("params", {})
        if tab is None:
            return
        match message["method"]:
            case "Page.loadEventFired":
                self.loaded.add(message["sessionId"])
            case "Network.requestWillBeSent":
                tab.requests.append(said["request"]["url"])
            case "Runtime.consoleAPICalled":
                tab.console.append(f"{said['type']}: {[each.get('value') for each in said['args']]}")
            case "Runtime.exceptionThrown":
                tab.console.append(str(said["exceptionDetails"]))
            case "Log.entryAdded":
                tab.console.append(said["entry"]["text"])


@contextmanager
def started() -> Iterator[Browser]:
    """A browser while this is open; the test is skipped where there is no Chromium."""
    chromium = program()
    if chromium is None:
        pytest.skip("missing tool: chromium (apt-get install chromium)")
    with tempfile.TemporaryDirectory(prefix="edgebench-chromium-", ignore_cleanup_errors=True) as folder:
        browser = Browser(Path(folder), chromium)
        try:
            yield browser
        finally:
            browser.close()
