"""`natsmesh dev` as a user starts it: a process of its own, on free ports, ended by Ctrl-C."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.snippets import Snippet

CURL = Path(__file__).with_name("curl.py")
UP = "Ctrl-C stops everything."
READY_SECONDS = 30
STOP_SECONDS = 15


@dataclass(frozen=True)
class Dev:
    """A running mesh: where its gateway and its broker listen, and the environment that commands of its users have."""

    gateway: str
    environment: Mapping[str, str]

    def run(self, snippet: Snippet, folder: Path) -> str:
        """Execute a block of the README in a folder, as a reader would, and return what it prints; it must succeed."""
        text = snippet.text.replace("localhost:8080", self.gateway)
        if shutil.which("curl") is None:
            text = re.sub(r"^curl ", f"python '{CURL}' ", text, flags=re.MULTILINE)
        command = ["python", "-c", text] if snippet.language == "python" else ["sh", "-e", "-c", text]
        result = subprocess.run(
            command, cwd=folder, env=self.environment, capture_output=True, text=True, check=False, timeout=30
        )
        assert result.returncode == 0, f"{snippet}: {result.stdout}{result.stderr}"
        return result.stdout


def assert_prints(snippet: Snippet, printed: str) -> None:
    """What a block has printed is what the README shows; JSON may be spaced differently."""
    if snippet.output is None:
        return
    with contextlib.suppress(ValueError):
        assert json.loads(printed) == json.loads(snippet.output), snippet
        return
    assert printed.strip() == snippet.output.strip(), snippet


@contextlib.contextmanager
def natsmesh_dev(folder: Path, programs: Path, log: Path) -> Iterator[Dev]:
    """`natsmesh dev` in a folder, with the programs (python, natsmesh) of one environment; its output goes to `log`."""
    port, nats_port = free_port(), free_port()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("NATS_", "OTEL_", "PYTHON"))}
    environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"
    command = ["natsmesh", "dev", "--port", str(port), "--nats-port", str(nats_port)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_until_up(process, log)
        yield Dev(f"localhost:{port}", {**environment, "NATS_URL": f"nats://127.0.0.1:{nats_port}"})
        process.send_signal(signal.SIGINT)
        assert process.wait(STOP_SECONDS) in (0, 130), log.read_text()
    finally:
        process.kill()
        process.wait()


def wait_until_up(process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for what a reader waits for: the last line of the overview of what can be called.

    The gateway's ``/readyz`` would be too early: the gateway is ready before the services have started.
    """
    deadline = time.monotonic() + READY_SECONDS
    while UP not in log.read_text():
        assert process.poll() is None, f"natsmesh dev has ended:\n{log.read_text()}"
        assert time.monotonic() < deadline, f"not up after {READY_SECONDS} s:\n{log.read_text()}"
        time.sleep(0.05)


def free_port() -> int:
    """A TCP port that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
