"""Chromium without a window, driven over a pipe by its DevTools protocol; needs nothing to install.

Messages are JSON, each ended by a zero byte. A command is answered by a message with its ``id``;
every other message is an event, and is kept until somebody takes it.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from attrs import define, field

# The descriptors on which Chromium reads commands and writes answers.
COMMANDS, ANSWERS = 3, 4
PATIENCE = 60
ARGUMENTS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


@define
class Tab:
    """A page of the browser, and all its frames and workers.

    :param commands: the descriptor for what Chromium reads
    :param answers: the descriptor for what Chromium writes
    """

    commands: int
    answers: int
    session: str | None = field(default=None, init=False)
    events: list[dict[str, Any]] = field(factory=list, init=False)
    _last: int = field(default=0, init=False)
    _unread: bytes = field(default=b"", init=False)

    def send(self, method: str, session: str | None = None, **params: Any) -> int:
        """Send a command, and return its number."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        return self._last

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command, and return what is answered."""
        number = self.send(method, self.session, **params)
        while True:
            message = self._receive()
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                answer: dict[str, Any] = message["result"]
                return answer

    def open(self) -> None:
        """Open an empty page, and listen to it."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        answer = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = answer["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call(
            "Target.setAutoAttach", autoAttach=True, waitForDebuggerOnStart=False, flatten=True
        )

    def resize(self, width: int, height: int) -> None:
        """Make the window this large, in pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def load(self, url: str, scheme: str) -> None:
        """Load a page for somebody who prefers that scheme, ``light`` or ``dark``."""
        preference = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[preference])
        self.events.clear()
        self.call("Page.navigate", url=url)
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._receive()

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression in the page; a promise is awaited."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"], indent=1))
        return answer["result"].get("value")

    def screenshot(self, *, whole: bool) -> bytes:
        """Return a picture as PNG, of the whole page or of what the window shows."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        return base64.b64decode(answer["data"])

    def _receive(self) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self.answers], [], [], until - time.monotonic())
            read = os.read(self.answers, 1 << 20) if ready else b""
            if not read:
                raise TimeoutError("Chromium does not answer")
            self._unread += read
        line, self._unread = self._unread.split(b"\0", 1)
        message: dict[str, Any] = json.loads(line)
        if message.get("method") == "Target.attachedToTarget":
            self.send("Network.enable", message["params"]["sessionId"])
        if "method" in message:
            self.events.append(message)
        return message


@contextlib.contextmanager
def chromium() -> Iterator[Tab]:
    """Start Chromium with an empty profile, open a page in it, and end it afterwards."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if program is None:
        raise SystemExit("chromium is not on the PATH")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        read_by_it, commands = _pipe()
        answers, written_by_it = _pipe()
        process = os.posix_spawn(
            program,
            [program, *ARGUMENTS, f"--user-data-dir={profile}"],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, read_by_it, COMMANDS),
                (os.POSIX_SPAWN_DUP2, written_by_it, ANSWERS),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            ],
        )
        for end in (read_by_it, written_by_it):
            os.close(end)
        tab = Tab(commands, answers)
        try:
            tab.open()
            yield tab
            tab.session = None
            tab.send("Browser.close")
        except BaseException:
            os.kill(process, signal.SIGKILL)
            raise
        finally:
            os.waitpid(process, 0)
            os.close(commands)
            os.close(answers)


def _pipe() -> tuple[int, int]:
    """Return both ends of a pipe, with high numbers: Chromium expects others in the low ones."""
    low = os.pipe()
    reading, writing = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in low)
    for end in low:
        os.close(end)
    return reading, writing
