"""The shop in Celery, with folders for a broker and for results."""

from __future__ import annotations

import os
from pathlib import Path

from celery import Celery  # type: ignore[import-untyped]

from tests.integration.blocking.served.shop import ACTS

FOLDER = Path(os.environ["SHOP_FOLDER"])
for _name in ("queue", "results"):
    (FOLDER / _name).mkdir(exist_ok=True)

app = Celery("shop", broker="filesystem://", backend=f"file://{FOLDER / 'results'}")
app.conf.update(
    broker_transport_options={
        "data_folder_in": str(FOLDER / "queue"),
        "data_folder_out": str(FOLDER / "queue"),
        "control_folder": str(FOLDER / "queue"),
        "polling_interval": 0.02,
    },
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
)


@app.task(name="do")  # type: ignore[untyped-decorator]
def do(act: str, key: str) -> str:
    """Do something."""
    return ACTS[act](key)
