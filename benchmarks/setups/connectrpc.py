"""`connectrpc` alone: the gateway's Connect protocol with the greeter in the same process, and no bus behind it.

What a call costs when nothing is carried anywhere: HTTP, the protocol, JSON. There is one process, the gateway.
"""

from __future__ import annotations

from benchmarks.processes import Program, Stage
from benchmarks.setups.base import Setup
from benchmarks.setups.floor import start_uvicorn


class ConnectRpc(Setup):
    """See the module's text."""

    name = "connectrpc"
    title = "connectrpc alone, no bus, no back-end"

    def start(self, stage: Stage) -> Program:
        start_uvicorn(stage, "benchmarks.programs.connectrpc_gateway:app", {}, lifespan="off")
        return stage.programs[-1]
