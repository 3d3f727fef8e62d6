"""The same service in four frameworks; ``APPS`` are the applications by their names."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from importlib import import_module
from typing import Any

import anyio

from gogoscope import current_scope
from gogoscope.integrations.asgi import ScopeMiddleware, current_service, deadline_headers

NAMES = ("starlette", "fastapi", "litestar", "django")


async def look() -> dict[str, Any]:
    """Use the scope of a request, its lock, and that of the service."""
    s = current_scope()
    assert s is not None
    async with s.lock("order") as locked:
        err, number = await locked.task(answer)
    return {
        "scope": s.name,
        "service": current_service().name,
        "error": repr(err),
        "number": number,
        "headers": deadline_headers(),
        "pid": os.getpid(),
    }


async def answer() -> int:
    await anyio.sleep(0)
    return 42


async def wait() -> dict[str, Any]:
    """Wait for longer than anybody does, and tell how that ended."""
    print("waiting", flush=True)
    try:
        await anyio.sleep(60)
    finally:
        print("cancelled", flush=True)
    return {}


def starlette_app() -> Any:
    from contextlib import asynccontextmanager

    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        service = current_scope()
        assert service is not None
        service.every(0.05, answer)
        yield
        print("cleaned up", flush=True)

    async def looked(request: Any) -> JSONResponse:
        return JSONResponse(await look())

    async def waited(request: Any) -> JSONResponse:
        return JSONResponse(await wait())

    routes = [Route("/", looked), Route("/wait", waited)]
    app = Starlette(routes=routes, lifespan=lifespan)
    app.add_middleware(
        ScopeMiddleware, os.environ["SERVICE_STORE"], name="shop", cancel_on_disconnect=True
    )
    return app


def around(app: Any) -> ScopeMiddleware:
    return ScopeMiddleware(app, os.environ["SERVICE_STORE"], name="shop", cancel_on_disconnect=True)


def fastapi_app() -> Any:
    from fastapi import FastAPI

    app = FastAPI()
    app.get("/")(look)
    app.get("/wait")(wait)
    return around(app)


def litestar_app() -> Any:
    from litestar import Litestar, get

    return around(Litestar([get("/")(look), get("/wait")(wait)]))


def django_app() -> Any:
    # It has no types.
    http: Any = import_module("django.http")
    path: Any = import_module("django.urls").path
    import_module("django.conf").settings.configure(
        ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], LOGGING_CONFIG=None
    )
    import_module("django").setup()

    async def looked(request: Any) -> Any:
        return http.JsonResponse(await look())

    async def waited(request: Any) -> Any:
        return http.JsonResponse(await wait())

    globals()["urlpatterns"] = [path("", looked), path("wait", waited)]
    return around(import_module("django.core.asgi").get_asgi_application())


def app() -> Any:
    """Make the application that the environment names, for ``uvicorn --factory``."""
    return globals()[f"{os.environ['SERVICE_FRAMEWORK']}_app"]()
