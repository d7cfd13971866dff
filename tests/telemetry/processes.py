"""Real processes of a mesh that export to a collector, and what their spans make up."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rpc.embedded import Broker
from tests.telemetry.otlp_receiver import OtlpReceiver, Span

ROOT = Path(__file__).parents[2]


class Mesh:
    """Processes of one mesh, all of which export to ``receiver``."""

    def __init__(self, receiver: OtlpReceiver, broker: Broker, logs: Path, *paths: Path) -> None:
        """``paths`` are those of further code."""
        self.receiver = receiver
        self._logs = logs
        self._processes: list[subprocess.Popen[bytes]] = []
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "NATS"))}
        self._environ = inherited | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "gen"), *map(str, paths)]),
            "NATS_URL": broker.url,
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "OTEL_METRIC_EXPORT_INTERVAL": "200",
            "NATSMESH_LOG_FORMAT": "json",
        }

    def start(self, name: str, *command: str, **environ: str) -> None:
        with (self._logs / f"{name}.log").open("wb") as log:
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "natsmesh", *command],
                    cwd=ROOT,
                    env=self._environ | environ,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )

    def start_gateway(self, name: str, serves: Callable[[int], bool], **environ: str) -> int:
        """Start a gateway, and return its port once ``serves(port)``."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        self.start(name, "gateway", "--port", str(port), **environ)
        self.until(lambda: serves(port), f"{name} serves")
        return port

    def log(self, name: str) -> list[dict[str, str]]:
        lines = (self._logs / f"{name}.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def until(self, condition, what: str, timeout: float = 30.0) -> None:  # noqa: ANN001 - a lambda
        deadline = time.monotonic() + timeout
        while not condition():
            logs = {path.name: path.read_text()[-2000:] for path in self._logs.iterdir()}
            assert all(process.poll() is None for process in self._processes), logs
            assert time.monotonic() < deadline, f"waited in vain: {what}\n{logs}"
            time.sleep(0.05)

    def stop(self) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def traced(receiver: OtlpReceiver, agent: str, size: int) -> list[Span]:
    """Return the whole trace of the request that was sent with this user agent."""

    def roots(spans: list[Span]) -> list[Span]:
        return [span for span in spans if span.attributes.get("user_agent.original") == agent]

    def complete(spans: list[Span]) -> bool:
        found = roots(spans)
        return bool(found) and sum(span.trace_id == found[0].trace_id for span in spans) >= size

    spans = receiver.wait_for_spans(complete)
    (root,) = roots(spans)
    return [span for span in spans if span.trace_id == root.trace_id]


def tree(spans: list[Span]) -> list[tuple[int, str, str, str]]:
    """Return (depth, service, kind, name), each parent before its children."""
    children: dict[str, list[Span]] = {}
    for span in spans:
        children.setdefault(span.parent_id, []).append(span)

    def walk(parent: str, depth: int) -> list[tuple[int, str, str, str]]:
        rows: list[tuple[int, str, str, str]] = []
        for span in sorted(children.get(parent, []), key=lambda span: span.name):
            rows += [(depth, span.service, span.kind, span.name), *walk(span.span_id, depth + 1)]
        return rows

    return walk("", 0)
