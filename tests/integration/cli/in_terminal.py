"""The command line in processes of their own: in a pseudo-terminal, and in pipes."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from attrs import define, field

PATIENCE = 60.0
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
PROGRAM = (sys.executable, "-m", "gogoscope")


def environment(**more: str) -> dict[str, str]:
    """Return an environment in which people see colours."""
    hidden = ("GOGOSCOPE_STORE", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return {**kept, "TERM": "xterm-256color", "COLUMNS": "200", **more}


@define
class Terminal:
    """A program in a pseudo-terminal, and what it has shown so far."""

    process: subprocess.Popen[bytes]
    fd: int
    shown: str = field(default="")

    def wait_for(self, text: str, behind: int = 0) -> None:
        """Read until a text was shown.

        :param behind: how much of what was shown before does not count
        """
        give_up = time.monotonic() + PATIENCE
        while text not in self.shown[behind:]:
            assert time.monotonic() < give_up, self.shown
            assert self._read() or text in self.shown[behind:], self.shown

    def type(self, text: str) -> None:
        """Type a text."""
        os.write(self.fd, text.encode())

    def end(self) -> int:
        """Read until the program ends; return its exit code."""
        while self._read():
            pass
        return self.process.wait(PATIENCE)

    def _read(self) -> bool:
        ready, _, _ = select.select([self.fd], [], [], PATIENCE)
        assert ready, self.shown
        try:
            got = os.read(self.fd, 65536)
        except OSError:  # nobody has the other end open any more
            return False
        self.shown += got.decode(errors="replace")
        return bool(got)


@contextmanager
def terminal(*arguments: str, env: Mapping[str, str] | None = None) -> Iterator[Terminal]:
    """Run the program in a pseudo-terminal that is its own."""
    near, far = pty.openpty()
    process = subprocess.Popen(
        [*PROGRAM, *arguments],
        stdin=far,
        stdout=far,
        stderr=far,
        env=environment(**(env or {})),
        start_new_session=True,
        preexec_fn=_take_terminal,
    )
    os.close(far)
    try:
        yield Terminal(process, near)
    finally:
        process.kill()
        process.wait()
        os.close(near)


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def piped(*arguments: str, **options: str) -> subprocess.CompletedProcess[str]:
    """Run the program in pipes.

    :param options: more of the environment
    """
    return subprocess.run(
        [*PROGRAM, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env=environment(**options),
    )
