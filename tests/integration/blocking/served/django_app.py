"""The shop in Django."""

from __future__ import annotations

from django.conf import settings  # type: ignore[import-untyped]
from django.core.wsgi import get_wsgi_application  # type: ignore[import-untyped]
from django.http import HttpRequest, HttpResponse  # type: ignore[import-untyped]
from django.urls import path  # type: ignore[import-untyped]

from tests.integration.blocking.served.shop import ACTS

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="tests")


def view(request: HttpRequest, act: str, key: str) -> HttpResponse:
    """Do something."""
    return HttpResponse(ACTS[act](key).encode())


urlpatterns = [path("<str:act>/<str:key>", view)]
application = get_wsgi_application()
