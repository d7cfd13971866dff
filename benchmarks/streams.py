"""Streams and messages of all sizes: natsmesh beside grpc.aio, and above what plain NATS publishing costs.

One client process, one server process, and where there is one the broker: a nats-server with its defaults, so that
messages of 1 MiB and more travel in parts. All of them run for the whole time and are measured one after the other,
each kind and size in turn, so that a slow minute of the machine meets all of them alike.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import streams_report
from benchmarks.interactive import expect, say
from benchmarks.measurement import Accounts
from benchmarks.processes import HOST, Program, Role, Stage, free_port
from benchmarks.report import DISTURBED_ABOVE
from benchmarks.streams_report import KINDS, SETUPS, Cell, Results, Window

KIB, MIB = 1024, 1024 * 1024
SIZES = (16, KIB, 64 * KIB, MIB)
LARGE_UNARY = 8 * MIB
FIRST_SIZE = 16
"""Bytes of the messages whose arrival is timed."""


class Measured:
    """The processes of one setup: a server, a client that waits for orders, a broker where one is needed."""

    def __init__(self, setup: str, stack: ExitStack) -> None:
        self.stage = stage = stack.enter_context(Stage())
        if setup == "grpc":
            port = free_port()
            target = f"{HOST}:{port}"
            stage.await_port(self._program("back-end", "streams_server", "grpc", target), port)
        else:
            target = stage.broker()
            if setup == "raw":
                self._program("back-end", "raw_publisher", target)
            else:
                self._program("back-end", "streams_server", "natsmesh", target)
        self._client = self._program("client", "streams_client", setup, target)

    def _program(self, role: Role, module: str, *arguments: str) -> Program:
        command = [sys.executable, "-m", f"benchmarks.programs.{module}", *arguments]
        return self.stage.spawn(role, command, interactive=role == "client")

    def window(self, cell: Cell, seconds: float) -> Window:
        """Loads for `seconds`. Raises BenchmarkError when a call fails or a process dies."""
        say(self._client, json.dumps({"kind": cell.kind, "size": cell.size, "seconds": seconds}))
        expect(self._client, "ready")
        accounts = Accounts(self.stage)
        say(self._client, "go")
        result = json.loads(expect(self._client, "RESULT "))
        cpu_us, others = accounts.close(result["messages"], result["seconds"])
        return Window(cpu_us=cpu_us, others_cores=others, **result)


def cells() -> Iterator[Cell]:
    """All that is measured, in order. What is compared with each other stands side by side."""
    for size in SIZES:
        for kind in KINDS:
            for setup in SETUPS:
                if (setup == "raw") == (kind == "raw"):
                    yield Cell(setup, kind, size)
    for setup in ("natsmesh", "grpc"):
        yield Cell(setup, "unary", LARGE_UNARY)
    for setup in ("natsmesh", "grpc"):
        yield Cell(setup, "first", FIRST_SIZE)


def main(rounds: int, seconds: float, folder: Path, machine: dict[str, object], command: str) -> int:
    """Measures all, writes `streams.json`, `streams.md` and `streams.png`. The status is 1 when an aim is missed."""
    results = Results(
        command=command,
        machine=machine,
        started=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        rounds=rounds,
        seconds=seconds,
    )
    with ExitStack() as stack:
        measured = {setup: Measured(setup, stack) for setup in SETUPS}
        for turn in range(rounds):
            for cell in cells():
                window = measured[cell.setup].window(cell, seconds)
                results.windows.setdefault(cell, []).append(window)
                print(f"round {turn + 1}  {line(cell, window)}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "streams.json").write_text(json.dumps(raw(results), indent=1) + "\n")
    text = streams_report.markdown(results)
    (folder / "streams.md").write_text(text)
    drawn = streams_report.draw(results, folder / "streams.png")
    print("\n" + text)
    print(f"written: {folder}/streams.json, streams.md" + (f"; no plot: {drawn}" if drawn else ", streams.png"))
    return 0 if all(aim.is_met for aim in streams_report.aims(results)) else 1


def raw(results: Results) -> dict[str, object]:
    """All windows, for whoever wants to count differently."""
    return {
        "command": results.command,
        "machine": results.machine,
        "started": results.started,
        "rounds": results.rounds,
        "seconds": results.seconds,
        "windows": [
            {**cell._asdict(), **asdict(window)} for cell, windows in results.windows.items() for window in windows
        ],
    }


def line(cell: Cell, window: Window) -> str:
    """One window for the eyes of whoever waits."""
    roles = " + ".join(f"{role} {cpu:.1f}" for role, cpu in window.cpu_us.items())
    disturbed = f"  (others: {window.others_cores:.2f} cores)" if window.others_cores > DISTURBED_ABOVE else ""
    start = f"{cell.setup:8} {cell.kind:13} {cell.size:>9,} B  "
    if cell.kind == "first":
        return f"{start}unary {window.unary_p50_us:.0f} us, first message {window.stream_p50_us:.0f} us{disturbed}"
    return (
        f"{start}{window.rate:10,.0f} messages/s  {cell.megabytes(window):8,.1f} MB/s  "
        f"{window.total_cpu_us:8.1f} us CPU a message ({roles}){disturbed}"
    )
