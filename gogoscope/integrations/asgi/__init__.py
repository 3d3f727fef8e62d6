"""A store and a scope for a service that speaks ASGI, and a scope for each of its requests.

::

    from gogoscope import current_scope
    from gogoscope.integrations.asgi import ScopeMiddleware

    app = ScopeMiddleware(FastAPI(), "redis://127.0.0.1/0")

It needs no package besides gogoscope, and works with every framework: around the application, as
here, or as one of its middlewares where these see the lifespan (``app.add_middleware`` of Starlette
and FastAPI).
"""

from __future__ import annotations

from gogoscope.integrations.asgi.here import current_service, deadline_headers
from gogoscope.integrations.asgi.middleware import ScopeMiddleware

__all__ = ["ScopeMiddleware", "current_service", "deadline_headers"]
