"""The shop in Flask."""

from __future__ import annotations

from flask import Flask

from tests.integration.blocking.served.shop import ACTS

application = Flask(__name__)


@application.get("/<act>/<key>")
def view(act: str, key: str) -> str:
    """Do something."""
    return ACTS[act](key)
