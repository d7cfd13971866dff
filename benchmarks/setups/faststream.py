"""FastAPI in front, FastStream behind, request and reply over NATS: what a Python team would write today."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from benchmarks.processes import Program, Stage
from benchmarks.setups.base import Setup
from benchmarks.setups.floor import start_uvicorn


class FastStream(Setup):
    """See the module's text."""

    name = "faststream"
    title = "FastAPI + FastStream over NATS"

    def missing(self) -> str | None:
        absent = [package for package in ("fastapi", "faststream") if find_spec(package) is None]
        return f"{' and '.join(absent)} not installed: pip install 'natsmesh[bench]'" if absent else None

    def start(self, stage: Stage) -> Program:
        nats_url = stage.broker()
        start_uvicorn(stage, "benchmarks.programs.fastapi_gateway:app", {"NATS_URL": nats_url})
        return stage.spawn(
            "back-end", [sys.executable, "-m", "benchmarks.programs.faststream_backend"], env={"NATS_URL": nats_url}
        )
