"""The broker of a development session: the bundled one, watched over."""

from __future__ import annotations

import asyncio
import contextlib
import os

from natsmesh.exits import Exit, Failure, describe_exit
from natsmesh.lines import LineSplitter, Terminal
from natsmesh.supervisor import Backoff
from rpc.embedded import Broker, BrokerError, PortTakenError

NAME = "broker"

# What nats-server says about its start and about our own choice of max_payload tells a developer nothing.
_QUIET = ("[INF]", "[DBG]", "Maximum payloads over")
_POLL_SECONDS = 0.2


class DevBroker:
    """Runs nats-server, shows its warnings, starts it again when it dies."""

    def __init__(self, port: int, store_dir: str | None, terminal: Terminal) -> None:
        self._terminal = terminal
        self._read, self._write = os.pipe()
        self._broker = Broker(port=port, store_dir=store_dir, output=self._write)
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.BaseTransport | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return self._broker.url

    async def start(self) -> None:
        """Start it. Raises ``Failure``."""
        pipe = os.fdopen(self._read, "rb", buffering=0)
        self._transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: _Log(self._take), pipe)
        await self._start()
        self._task = asyncio.create_task(self._keep_running(), name="natsmesh-dev-broker")

    async def stop(self) -> None:
        """Stop it."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await asyncio.to_thread(self._broker.stop)
        os.close(self._write)
        if self._transport is not None:
            self._transport.close()

    def kill(self) -> None:
        """End it at once."""
        self._broker.stop(0)

    async def _start(self) -> None:
        try:
            await self._broker.__aenter__()
        except PortTakenError as error:
            raise Failure(f"{error} (--nats-port)", Exit.PORT_TAKEN) from error
        except BrokerError as error:
            raise Failure(str(error)) from error

    async def _keep_running(self) -> None:
        backoff = Backoff()
        loop = asyncio.get_running_loop()
        since = loop.time()
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            code = self._broker.exit_code
            if code is None:
                continue
            delay = backoff.after(loop.time() - since)
            self._terminal.error(NAME, f"nats-server died: {describe_exit(code)}; it is started again in {delay:.1f} s")
            await asyncio.sleep(delay)
            since = loop.time()
            try:
                await self._start()
            except Failure as failure:
                self._terminal.error(NAME, failure.message)

    def _take(self, line: str) -> None:
        if not any(each in line for each in _QUIET):
            self._terminal.line(NAME, line)


class _Log(asyncio.Protocol):
    def __init__(self, take: object) -> None:
        self._lines = LineSplitter(take)  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        self._lines.feed(data)
