"""Lambda containers that are frozen for longer than their leases."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from attrs import frozen

from tests.integration.aws.container import TTL
from tests.support.shared_stores import SHARED_STORES, shared_store_url

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGSTOP"),
]
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(params=SHARED_STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store that processes share."""
    return shared_store_url(request, tmp_path)


@frozen
class Container:
    """A process that answers invocations."""

    process: subprocess.Popen[str]

    def begin(self, event: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{event}\n")
        self.process.stdin.flush()

    def told(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip()

    def invoke(self, event: str) -> str:
        self.begin(event)
        return self.told()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop it for longer than the leases."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
            time.sleep(TTL + 0.5)
        finally:
            self.process.send_signal(signal.SIGCONT)


@contextmanager
def container(store: str) -> Iterator[Container]:
    command = [sys.executable, "-W", "error", "-m", "tests.integration.aws.container", store]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield Container(process)
            output, _ = process.communicate(timeout=60)
            assert (process.returncode, output) == (0, "")
        finally:
            process.kill()


def token(answer: str, event: str) -> int:
    """Return the fencing token of an answer, which must be that to an event."""
    said, number, fencing_token = answer.split()
    assert (said, number) == (event, "2"), answer
    return int(fencing_token)


def test_a_container_that_was_frozen_goes_on_as_if_nothing_had_been(store: str) -> None:
    with container(store) as first, container(store) as second:
        before = token(first.invoke("a"), "a")
        with first.frozen():
            # Nothing is held by a container that waits.
            meanwhile = token(second.invoke("b"), "b")
        assert before < meanwhile < token(first.invoke("c"), "c")
        token(first.invoke("b"), "b")


def test_what_a_container_held_when_it_was_frozen_is_lost_and_told(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'store.db'}"
    with container(store) as first, container(store) as second:
        first.begin("hold")
        assert first.told() == "holding"
        with first.frozen():
            meanwhile = token(second.invoke("b"), "b")
        assert first.told() == "LeaseLostError"
        assert meanwhile < token(first.invoke("c"), "c")
