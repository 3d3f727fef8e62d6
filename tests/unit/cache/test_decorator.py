"""``cached``: the results of a function are kept under a key made of its arguments."""

from __future__ import annotations

import functools
import hashlib
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from gogoscope import Cache, cached, scope
from gogoscope.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio


calls: list[object] = []


@pytest.fixture(autouse=True)
def no_calls() -> None:
    calls.clear()


async def square(number: int, *, name: str = "") -> int:
    """Square a number."""
    calls.append(number)
    return number * number


async def test_a_decorated_function_is_called_once_for_each_key() -> None:
    store = MemoryStore()
    kept = cached(store, 60)(square)
    assert [await kept(number) for number in (2, 3, 2, 3)] == [4, 9, 4, 9]
    assert await kept(2, name="x") == 4
    assert calls == [2, 3, 2]
    assert kept.__name__ == "square"
    assert kept.__doc__ == "Square a number."
    assert sorted(await store.keys()) == sorted(
        key_of("square", args) for args in ("2", "2, name='x'", "3")
    )


async def test_a_key_names_the_function_and_hides_its_arguments() -> None:
    store = MemoryStore()
    kept = cached(store, 60)(square)
    await kept(4111_1111, name="hunter2")
    (key,) = await store.keys()
    assert key.startswith(f"{__name__}.square:")
    assert "4111" not in key
    assert "hunter2" not in key


def key_of(name: str, arguments: str) -> str:
    return f"{__name__}.{name}:{hashlib.sha256(arguments.encode()).hexdigest()[:32]}"


class Tenant:
    def __init__(self, name: str) -> None:
        self.name = name

    async def secret(self, number: int = 0) -> str:
        return self.name

    async def __call__(self) -> str:
        return self.name

    @staticmethod
    async def number() -> int:
        return 7


async def test_a_function_whose_name_may_stand_for_others_needs_a_key() -> None:
    def reading(table: str) -> Callable[[int], Awaitable[str]]:
        async def read(number: int) -> str:
            return f"{table}:{number}"

        return read

    def renamed(fn: Callable[..., Any]) -> Any:
        @functools.wraps(fn)
        async def wrapper(*args: Any) -> Any:
            return await fn(*args)

        return wrapper

    store, ann = MemoryStore(), Tenant("ann")
    bound = functools.partial(square, 2)
    functions: list[Callable[..., Awaitable[Any]]] = [
        bound,
        functools.update_wrapper(bound, square),
        ann.secret,
        ann,
        lambda: ann.secret(),
        reading("users"),
        renamed(ann.secret),
        renamed(reading("users")),
    ]
    for function in functions:
        with pytest.raises(TypeError, match=r"pass cached\(\.\.\., key=\.\.\.\)"):
            cached(store, 60)(function)
    kept = [
        cached(store, 60, key=lambda number, table=table: f"{table}:{number}")(reading(table))
        for table in ("users", "orders")
    ]
    assert [await read(1) for read in kept] == ["users:1", "orders:1"]
    assert await cached(store, 60)(renamed(square))(3) == 9
    assert await cached(store, 60)(Tenant.number)() == 7
    assert sorted(await store.keys()) == [
        "orders:1",
        key_of("Tenant.number", ""),
        key_of("square", "3"),
        "users:1",
    ]


async def test_a_method_needs_a_key_that_tells_its_objects_apart() -> None:
    with pytest.raises(TypeError, match=r"argument 1 of .*Tenant.secret is of type Tenant"):
        await cached(MemoryStore(), 60)(Tenant.secret)(Tenant("ann"))
    secret = cached(MemoryStore(), 60, key=lambda tenant: f"secret:{tenant.name}")(Tenant.secret)
    assert [await secret(Tenant(name)) for name in ("ann", "bob")] == ["ann", "bob"]


async def test_the_key_tells_values_of_different_types_apart() -> None:
    @cached(MemoryStore(), 60)
    async def show(*args: Any, **kwargs: Any) -> str:
        return repr((args, kwargs))

    arguments: list[Any] = [1, True, 1.0, "1", None, "None", "", -0.0, 0.0]
    assert [await show(argument) for argument in arguments] == [
        repr(((argument,), {})) for argument in arguments
    ]
    assert await show(b=1, a=2) == await show(a=2, b=1)
    assert await show("a=2") != await show(a=2)


async def test_a_key_function_gets_the_arguments() -> None:
    class User:
        def __init__(self, number: int) -> None:
            self.number = number

    store = MemoryStore()

    @cached(store, 60, key=lambda user, **options: f"user:{user.number}")
    async def load(user: User, *, fresh: bool = False) -> int:
        return user.number

    assert await load(User(7)) == 7
    assert await load(User(7), fresh=True) == 7
    assert await store.keys() == ["user:7"]


async def test_arguments_that_make_no_stable_key_are_refused() -> None:
    @cached(MemoryStore(), 60)
    async def load(thing: object, *, option: object = None) -> None:
        calls.append(thing)

    class Text(str):
        __slots__ = ()

    for bad in (object(), [1], (1,), {"a": 1}, b"x", Text("x")):
        with pytest.raises(TypeError, match=r"argument 1 of .*load is of type .*key=\.\.\."):
            await load(bad)
    with pytest.raises(TypeError, match=r"option of .*load is of type list"):
        await load(1, option=[])
    assert calls == []


async def test_options_are_checked_when_decorating() -> None:
    with pytest.raises(ValueError, match="ttl must be more than 0"):
        cached(MemoryStore(), 0)
    with pytest.raises(ValueError, match="stale_if_error must be"):
        cached(MemoryStore(), 60, stale_if_error=-1)
    not_a_function: Any = "user:{}"
    with pytest.raises(TypeError, match="key must be a function of the arguments"):
        cached(MemoryStore(), 60, key=not_a_function)
    not_a_store: Any = 7
    with pytest.raises(TypeError, match="must be a URL, a store"):
        cached(not_a_store, 60)


async def test_many_calls_at_once_share_one_call() -> None:
    @cached(Cache(MemoryStore()), 60)
    async def load() -> list[int]:
        calls.append(None)
        await anyio.sleep(0.01)
        return []

    async with scope() as s:
        results = await s.all(*[s.task(load) for _ in range(50)])
    assert len(calls) == 1
    assert all(result.unwrap() == [] for result in results)


async def test_the_decorator_of_a_scope_uses_its_cache() -> None:
    store = MemoryStore()
    for _ in range(2):
        async with scope(persistence=store) as s:

            @s.cached(60, key=lambda number: f"k{number}")
            async def load(number: int) -> str:
                calls.append(number)
                return str(number)

            assert (await s.task(load, 1)).unwrap() == "1"
    assert calls == [1]
    assert await store.keys() == ["k1"]


async def test_errors_are_raised_and_not_kept() -> None:
    answers: list[Exception | int] = [LookupError("none"), 1]

    @cached(MemoryStore(), 60, key=lambda: "k")
    async def load() -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with pytest.raises(LookupError):
        await load()
    assert await load() == 1


def test_functions_of_two_scripts_have_different_keys(tmp_path: Path) -> None:
    script = tmp_path / "billing.py"
    script.write_text(
        "import anyio\n"
        "from gogoscope import cached\n"
        "from gogoscope.stores import MemoryStore\n"
        "store = MemoryStore()\n"
        "@cached(store, 60)\n"
        "async def load(number): return number\n"
        "async def main():\n"
        "    await load(1)\n"
        "    print(await store.keys())\n"
        "anyio.run(main)\n"
    )
    shown = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("['billing.load:")
