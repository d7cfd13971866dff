"""Stub to servicer without HTTP: the same generated stub and the same servicer class over natsmesh and over grpc.aio.

One client process with 64 calls under way, one server process, and the broker where there is one; the CPU of all of
them counts.
"""

from __future__ import annotations

import json
import sys
from abc import ABC, abstractmethod

from benchmarks.interactive import expect, say
from benchmarks.load import CONNECTIONS
from benchmarks.measurement import WARM_UP, Accounts, Window
from benchmarks.processes import HOST, Stage, free_port
from benchmarks.setups.envoy import start_grpc_server
from benchmarks.setups.natsmesh import natsmesh_missing, start_backend, start_broker


class StubSetup(ABC):
    """A client and a server of the greeter."""

    name: str
    title: str

    def missing(self) -> str | None:
        """Why this setup cannot run here, or None."""
        return None

    @abstractmethod
    def start(self, stage: Stage) -> list[str]:
        """Starts the server's side; returns the client's arguments."""


class StubOverNatsMesh(StubSetup):
    """`rpc.Channel` to `natsmesh serve`."""

    name = "stub-natsmesh"
    title = "natsmesh: stub, NATS, servicer"

    def missing(self) -> str | None:
        return natsmesh_missing()

    def start(self, stage: Stage) -> list[str]:
        nats_url = start_broker(stage)
        start_backend(stage, nats_url, {})
        return ["natsmesh", nats_url]


class StubOverGrpc(StubSetup):
    """`grpc.aio.insecure_channel` to `grpc.aio.server`."""

    name = "stub-grpc"
    title = "grpc.aio: stub, HTTP/2, servicer"

    def start(self, stage: Stage) -> list[str]:
        port = free_port()
        stage.await_port(start_grpc_server(stage, port), port)
        return ["grpc", f"{HOST}:{port}"]


ALL: tuple[StubSetup, ...] = (StubOverNatsMesh(), StubOverGrpc())


def measure(setup: StubSetup, seconds: float) -> Window:
    """Runs one window. Raises BenchmarkError when a call fails or a process dies."""
    with Stage() as stage:
        arguments = setup.start(stage)
        command = [
            sys.executable,
            "-m",
            "benchmarks.programs.stub_client",
            *arguments,
            "--calls-at-once",
            str(CONNECTIONS),
            "--warm-up",
            str(WARM_UP),
            "--seconds",
            str(seconds),
        ]
        client = stage.spawn("client", command, interactive=True)
        expect(client, "ready")
        accounts = Accounts(stage)
        say(client, "go")
        result = json.loads(expect(client, "RESULT "))
        cpu_us, others = accounts.close(result["calls"], result["seconds"])
        return Window(
            setup=setup.name,
            calls=result["calls"],
            seconds=result["seconds"],
            p50_us=result["p50_us"],
            p99_us=result["p99_us"],
            cpu_us=cpu_us,
            backend_ready_seconds=None,
            backend_resident_bytes=stage.resident_bytes("back-end"),
            others_cores=others,
        )
