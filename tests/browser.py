"""A headless Chromium that opens one file and reports what a reader's browser would do: messages, requests, text.

It speaks the DevTools protocol over two pipes, so it needs no port and no package.
"""

import json
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 300  # seconds for one answer: a busy machine is no failure of the page
QUIET = ("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync")
IN_CONTAINERS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
PICTURES = "Array.from(document.images, i => ({alt: i.alt, width: i.complete ? i.naturalWidth : 0}))"
# A script of the page would change the text, so it also shows whether the page needs one.
TEXT = "document.body.innerText"
CUT_OFF = """Array.from(document.querySelectorAll("table, img, p, li, pre, dd"))
.filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
.map(e => e.tagName + " " + (e.alt || e.innerText).slice(0, 60))"""


class Visit(NamedTuple):
    """What happened when a page was opened.

    Attributes:
        messages: What the console shows: errors, blocked content, exceptions, and anything logged.
        requests: URLs that were requested, even if the policy of the page blocked them, without data URLs.
        text: Visible text.
        pictures: ``alt`` and ``width`` of each picture; a width of 0 if it was not loaded.
    """

    messages: list[str]
    requests: list[str]
    text: str
    pictures: list[dict[str, Any]]


class Browser:
    """A Chromium with its own profile; a context manager."""

    def __init__(self, profile: Path) -> None:
        self.profile = profile
        self.events: list[dict[str, Any]] = []
        self._unread = b""
        self._number = 0

    def __enter__(self) -> Self:
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        command = [_executable(), "--headless", f"--user-data-dir={self.profile}", "--remote-debugging-pipe"]
        # Chromium reads commands from descriptor 3 and writes to 4. Only bash can redirect from any descriptor to them.
        redirect = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        self._process = subprocess.Popen(
            ["bash", "-c", redirect, "bash", *command, *QUIET, *IN_CONTAINERS],
            pass_fds=(to_browser, from_browser),
            start_new_session=True,
            env=os.environ | {"HOME": str(self.profile)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = None
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.send(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._out)
        os.close(self._in)
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    _session: str | None = None

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result; events that come first are kept."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters}
        session = {"sessionId": self._session} if self._session else {}
        os.write(self._out, json.dumps(command | session).encode() + b"\0")
        answer = self._read(lambda message: message.get("id") == command["id"])
        assert "error" not in answer, (method, answer)
        result: dict[str, Any] = answer["result"]
        return result

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, which runs even where scripts of the page do not."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def visit(self, page: Path, *, scripts: bool = True) -> Visit:
        """Open a file and wait until everything in it is loaded."""
        self.events.clear()
        self.send("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.send("Page.navigate", url=page.resolve().as_uri())
        if not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._read(lambda message: message.get("method") == "Page.loadEventFired")
        text, pictures = self.evaluate(TEXT), self.evaluate(PICTURES)
        urls = [event["params"]["request"]["url"] for event in self.events if _is(event, "Network.requestWillBeSent")]
        messages = [message for event in self.events for message in _messages(event)]
        return Visit(messages, [url for url in urls if not url.startswith("data:")], text, pictures)

    def _read(self, wanted: Any) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while True:
            message = self._next(deadline)
            if "method" in message:
                self.events.append(message)
            if wanted(message):
                return message

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._unread:
            readable, _, _ = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))
            received = os.read(self._in, 1 << 20) if readable else b""
            assert received, "the browser ended" if readable else f"no answer in {PATIENCE} s"
            self._unread += received
        text, _, self._unread = self._unread.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message


def _is(event: dict[str, Any], method: str) -> bool:
    return bool(event["method"] == method)


def _messages(event: dict[str, Any]) -> list[str]:
    """Return what an event adds to the console."""
    values = event["params"]
    if _is(event, "Log.entryAdded"):
        return [values["entry"]["text"]]
    if _is(event, "Runtime.consoleAPICalled"):
        return [" ".join(str(argument.get("value")) for argument in values["args"])]
    if _is(event, "Runtime.exceptionThrown"):
        return [values["exceptionDetails"]["text"]]
    return []


def _executable() -> str:
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.fail(f"found no {', '.join(NAMES)}; install one with: make browser-needs")
    return found
