"""The pytest plugin: what it costs until it is used, and virtual time for async tests."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

ANYIO = """
import anyio
import pytest
from gogoscope import scope
from gogoscope.persistence import current_clock

YEAR = 365 * 86400


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


@pytest.fixture
async def real():
    async with scope() as s:
        yield s


@pytest.mark.anyio
class TestWithAnyio:
    async def test_all_clocks_are_virtual(self, virtual_clock):
        before = current_clock.wall(), current_clock.elapsed()
        async with scope() as s:
            task = s.task(anyio.sleep, YEAR)
            async with s.lock("order", ttl=30) as locked:
                await anyio.sleep(3600)
                locked.ensure()
            assert (await task).error is None
        assert virtual_clock.elapsed() == YEAR
        assert current_clock.wall() - before[0] == pytest.approx(YEAR)
        assert current_clock.elapsed() - before[1] == pytest.approx(YEAR)

    async def test_fixtures_share_the_event_loop(self, real, virtual_clock):
        before = anyio.current_time()
        assert (await real.task(anyio.sleep, YEAR)).error is None
        assert anyio.current_time() - before == pytest.approx(YEAR, abs=1)

    async def test_a_test_without_the_clock_is_real(self, real):
        with anyio.move_on_after(0.01) as timeout:
            await anyio.sleep(86400)
        assert timeout.cancelled_caught


class TestOverridden:
    @pytest.fixture
    def virtual_clock(self):
        from gogoscope.testing import VirtualClock

        return VirtualClock(start=1_000_000_000)

    @pytest.mark.anyio
    async def test_its_options(self, virtual_clock):
        await anyio.sleep(10)
        assert current_clock.wall() == virtual_clock.time() == 1_000_000_010


@pytest.mark.anyio
async def test_an_error_is_told_as_usual(virtual_clock):
    with pytest.raises(TimeoutError):
        with anyio.fail_after(10):
            await anyio.sleep(11)


def test_a_sync_test_runs_a_program(virtual_clock):
    virtual_clock.run(anyio.sleep, YEAR)
    assert virtual_clock.elapsed() == YEAR
"""

ASYNCIO = """
import asyncio
import anyio
import pytest
import pytest_asyncio
from gogoscope import scope
from gogoscope.persistence import current_clock

YEAR = 365 * 86400


@pytest_asyncio.fixture
async def real():
    await asyncio.sleep(0.01)
    yield asyncio.get_running_loop()
    await asyncio.sleep(0.01)


@pytest.mark.asyncio
async def test_all_clocks_are_virtual(virtual_clock):
    before = current_clock.wall()
    async with scope() as s:
        task = s.task(asyncio.sleep, YEAR)
        async with s.lock("order", ttl=30) as locked:
            await asyncio.sleep(3600)
            locked.ensure()
        assert (await task).error is None
    assert virtual_clock.elapsed() == YEAR
    assert current_clock.wall() - before == pytest.approx(YEAR)


@pytest.mark.asyncio
async def test_fixtures_share_the_event_loop(real, virtual_clock):
    assert real is asyncio.get_running_loop()
    await asyncio.sleep(YEAR)
    assert virtual_clock.elapsed() == YEAR


@pytest.mark.asyncio(loop_scope="module")
class TestOneEventLoop:
    @pytest.mark.parametrize("number", range(3))
    async def test_one_test_after_the_other(self, virtual_clock, number):
        await asyncio.sleep(YEAR)
        assert virtual_clock.elapsed() == YEAR

    async def test_a_test_without_the_clock_is_real(self):
        with anyio.move_on_after(0.01) as timeout:
            await asyncio.sleep(86400)
        assert timeout.cancelled_caught
"""

HYPOTHESIS = """
import anyio
import pytest
from hypothesis import HealthCheck, given, settings, strategies


@pytest.mark.{mark}
@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(days=strategies.integers(1, 1000))
async def test_examples(virtual_clock, days):
    await anyio.sleep(days * 86400)
    assert virtual_clock.elapsed() == days * 86400
"""

INI = """
[pytest]
filterwarnings = error
asyncio_default_fixture_loop_scope = function
"""


def test_the_pytest_plugin_imports_nothing_of_the_aids_until_they_are_used() -> None:
    code = (
        "import sys, gogoscope.testing.pytest_plugin as plugin;"
        "print([name for name in ('asyncio', 'trio', 'gogoscope.testing.virtual_clock')"
        " if name in sys.modules])"
    )
    code = code.replace("import sys, ", "import pytest, sys; before = set(sys.modules); import ")
    code = code.replace("if name in sys.modules", "if name in set(sys.modules) - before")
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.strip() == "[]"


def passes(pytester: pytest.Pytester, ini: str, count: int, *options: str, **files: str) -> None:
    pytester.makeini(ini)
    pytester.makepyfile(**files)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", *options, timeout=60)
    result.assert_outcomes(passed=count)


def test_an_async_test_of_anyios_plugin_runs_in_virtual_time(pytester: pytest.Pytester) -> None:
    ini = INI.replace("asyncio_default_fixture_loop_scope = function", "")
    files = {"test_anyio": ANYIO, "test_examples": HYPOTHESIS.format(mark="anyio")}
    passes(pytester, ini, 13, "-p", "no:asyncio", **files)


def test_an_async_test_of_pytest_asyncio_runs_in_virtual_time(pytester: pytest.Pytester) -> None:
    if find_spec("pytest_asyncio") is None:  # it is for the process below, and none of this one
        pytest.skip("pytest-asyncio is not installed")
    files = {"test_asyncio": ASYNCIO, "test_examples": HYPOTHESIS.format(mark="asyncio")}
    passes(pytester, INI, 7, **files)


def test_what_runs_on_uvloop_is_told_to_run_on_asyncio(pytester: pytest.Pytester) -> None:
    pytest.importorskip("uvloop")
    pytester.makepyfile(
        """
        import anyio
        import pytest

        @pytest.fixture
        def anyio_backend():
            return "asyncio", {"use_uvloop": True}

        @pytest.mark.anyio
        async def test_it(virtual_clock):
            await anyio.sleep(1)
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:asyncio")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*RuntimeError: uvloop keeps its time*plain asyncio*"])
