"""natsmesh as its users run it: `natsmesh broker`, `natsmesh gateway`, `natsmesh serve`, with and without tracing.

Traces go to an OTLP/HTTP receiver of ours, which counts spans; its CPU is not counted, as nobody's trace store is.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

from benchmarks.processes import HOST, ROOT, Program, Stage, free_port, script
from benchmarks.setups.base import Setup

SERVICE = "services.greeter:Greeter"


class NatsMesh(Setup):
    """See the module's text. `sampled` is the share of calls that are traced, from 0 to 1; None leaves tracing off."""

    def __init__(self, *, sampled: float | None) -> None:
        self._sampled = sampled
        self.name = "natsmesh" if sampled is None else f"natsmesh-traced-{sampled * 100:g}"
        self.title = "natsmesh, tracing " + ("off" if sampled is None else f"{sampled:.0%}")

    def missing(self) -> str | None:
        return natsmesh_missing()

    def start(self, stage: Stage) -> Program:
        nats_url = start_broker(stage)
        env = {} if self._sampled is None else self._start_sink(stage)
        start_gateway(stage, nats_url, env)
        return start_backend(stage, nats_url, env)

    def _start_sink(self, stage: Stage) -> dict[str, str]:
        port = free_port()
        sink = stage.spawn("uncounted", [sys.executable, "-m", "benchmarks.programs.otlp_sink", str(port)])
        stage.await_port(sink, port)
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{HOST}:{port}",
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": str(self._sampled),
        }

    def counters(self, stage: Stage) -> dict[str, float]:
        sinks = [program for program in stage.programs if program.role == "uncounted"]
        return {"spans": float(last_count(sinks[0]))} if sinks else {}


def natsmesh_missing() -> str | None:
    """Why natsmesh's own command cannot run here, or None."""
    if not script("natsmesh").exists() and find_spec("natsmesh") is None:
        return "the natsmesh command is not installed: make bench, or pip install -e ."
    if not (ROOT / "gen" / "greeter").is_dir():
        return "the generated code is not there: make proto"
    return None


def start_broker(stage: Stage) -> str:
    """`natsmesh broker`; returns its URL."""
    port = free_port()
    stage.await_port(stage.spawn("broker", [*natsmesh(), "broker", "--port", str(port)]), port)
    return f"nats://{HOST}:{port}"


def start_gateway(stage: Stage, nats_url: str, env: dict[str, str]) -> None:
    """`natsmesh gateway`, one process."""
    command = [*natsmesh(), "gateway", "--port", str(stage.gateway_port), "--nats", nats_url]
    stage.await_port(stage.spawn("gateway", command, env=env), stage.gateway_port)


def start_backend(stage: Stage, nats_url: str, env: dict[str, str]) -> Program:
    """`natsmesh serve` with the reference greeter, one process."""
    return stage.spawn("back-end", [*natsmesh(), "serve", SERVICE, "--nats", nats_url], env=env)


def natsmesh() -> list[str]:
    """The command as installed."""
    return [str(script("natsmesh"))] if script("natsmesh").exists() else [sys.executable, "-m", "natsmesh"]


def last_count(sink: Program) -> int:
    """The number that the receiver printed last: the spans that have arrived."""
    lines = sink.log.read_text().split()
    return int(lines[-1]) if lines else 0
