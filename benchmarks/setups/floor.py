"""The floor: what HTTP and NATS cost in Python with nothing in between.

uvicorn with zttp, one raw nats-py `request()` a call, a raw nats-py back-end that echoes the bytes: no JSON, no
protobuf, no routing, no errors.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from benchmarks.processes import HOST, Program, Stage
from benchmarks.setups.base import Setup


class Floor(Setup):
    """See the module's text."""

    name = "floor"
    title = "floor: uvicorn + zttp + raw nats-py echo"

    def start(self, stage: Stage) -> Program:
        nats_url = stage.broker()
        start_uvicorn(stage, "benchmarks.programs.floor_gateway:app", {"NATS_URL": nats_url})
        return stage.spawn("back-end", [sys.executable, "-m", "benchmarks.programs.floor_backend", nats_url])

    def expected(self, name: str) -> object:
        return {"name": name}  # an echo


def start_uvicorn(stage: Stage, app: str, env: Mapping[str, str], *, lifespan: str = "on") -> None:
    """Serves an ASGI application as natsmesh's gateway does: one uvicorn process, uvloop, zttp, no access log."""
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        app,
        "--host",
        HOST,
        "--port",
        str(stage.gateway_port),
        "--loop",
        "uvloop",
        "--http",
        "zttp",
        "--ws",
        "none",
        "--lifespan",
        lifespan,
        "--no-access-log",
        "--log-level",
        "warning",
    ]
    stage.await_port(stage.spawn("gateway", command, env=env), stage.gateway_port)
