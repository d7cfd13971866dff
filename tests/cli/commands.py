"""The command line as its users run it: real processes, their output, real signals."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

SECONDS = 20.0
"""More than anything here takes, even on a busy machine."""


def until(condition: Callable[[], object], what: str = "", seconds: float = SECONDS) -> None:
    """Wait until a condition holds; fail with ``what`` otherwise."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, f"it did not happen within {seconds:g} s: {what or condition}"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether a process does something: it exists and is no zombie."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def children(pid: int) -> list[int]:
    """The process ids of the children of a process."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [child.pid for child in psutil.Process(pid).children()]
    return []


def free_port() -> int:
    """A TCP port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Command:
    """One run of ``natsmesh ...``. Its output, both streams merged, is collected as it comes."""

    def __init__(self, *words: str, folder: Path, **variables: str) -> None:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("NATS", "OTEL", "PYTHON"))}
        self.words = words
        self.process = subprocess.Popen(
            [sys.executable, "-m", "natsmesh", *words],
            cwd=folder,
            env={**inherited, "PYTHONUNBUFFERED": "1", **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started = time.monotonic()
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def output(self) -> str:
        return "\n".join(list(self._lines))

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self._lines.append(line.rstrip("\n"))

    def says(self, pattern: str, times: int = 1, seconds: float = SECONDS) -> re.Match[str]:
        """Wait until a line matches, so many times; return the last match. Fail when the process ends before."""
        limit = time.monotonic() + seconds
        while True:
            ended = self.process.poll() is not None
            if ended:
                self._reader.join(SECONDS)
            found = [match for line in list(self._lines) if (match := re.search(pattern, line))]
            if len(found) >= times:
                return found[times - 1]
            assert not ended, (
                f"{self.words} ended with {self.process.returncode} before it said {pattern!r}:\n{self.output}"
            )
            assert time.monotonic() < limit, f"{self.words} did not say {pattern!r} in {seconds:g} s:\n{self.output}"
            time.sleep(0.01)

    def count(self, pattern: str) -> int:
        """How many lines match so far."""
        return sum(bool(re.search(pattern, line)) for line in list(self._lines))

    def ends(self, seconds: float = SECONDS) -> int:
        """Wait for the end and all output; return the exit code."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.words} did not end in {seconds:g} s:\n{self.output}") from None
        self._reader.join(SECONDS)
        return code

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = SECONDS) -> int:
        """Send a signal, wait for the end, return the exit code."""
        self.process.send_signal(number)
        return self.ends(seconds)

    def kill(self) -> None:
        """``kill -9``, and wait for the end of this one process; those that it started must see to themselves."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End it, whatever state it is in, so that what it started ends as well."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
        self._reader.join(SECONDS)


class Commands:
    """Starts commands in one folder with one environment, and ends them all."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        self.variables = variables
        self._running: list[Command] = []

    def start(self, *words: str, **variables: str) -> Command:
        """Start ``natsmesh WORDS``; further environment variables may be given."""
        command = Command(*words, folder=self.folder, **{**self.variables, **variables})
        self._running.append(command)
        return command

    def run(self, *words: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        """Run ``natsmesh WORDS`` to its end; output and errors are apart."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("NATS", "OTEL", "PYTHON"))}
        return subprocess.run(
            [sys.executable, "-m", "natsmesh", *words],
            cwd=self.folder,
            env={**inherited, **self.variables, **variables},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def close(self) -> None:
        for command in self._running:
            command.close()


@contextlib.contextmanager
def closing(commands: Commands) -> Iterator[Commands]:
    """End all commands at the end of a block."""
    try:
        yield commands
    finally:
        commands.close()
