"""HTTP/2 connections with flow control for each stream, both ways.

uvicorn 0.54 leaves it at the connection. What a slow client does not take of a stream piles up here without a bound;
and a request stream that is not read stops the reading of the whole connection, the news that would set other streams
free (and perhaps itself) included. Here a writer waits until its stream has room, and a client gets credit for its
request as it is read (RFC 9113, 5.2): nobody waits for another stream's peer.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from inspect import CORO_CREATED, getcoroutinestate
from typing import Any, Final

import zttp
from uvicorn.config import Config
from uvicorn.protocols.http.zttp_h2_impl import RequestResponseCycle, ZttpH2Protocol
from uvicorn.server import ServerState

from gateway.hangup import ON_DISCONNECT
from gateway.patience import GiveAndTake, WaitsForHead, WritePatience

_FRAME_HEADER: Final = struct.Struct(">HBBBI")
"""Length (24 bits, as 16 and 8), type, flags, stream id."""

_WINDOW_UPDATE: Final = 8
_WINDOW_UPDATE_START: Final = b"\x00\x00\x04\x08\x00"
_INCREMENT: Final = struct.Struct(">I")


class Http2Protocol(ZttpH2Protocol, WaitsForHead):
    """One HTTP/2 connection."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.patience = WritePatience(config, self.loop)
        self.waiting: set[_Flow] = set()
        self._flows: dict[int, _Flow] = {}
        self._tasks = _Tasks(self.tasks)
        self.tasks: Any = self._tasks

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn has it so, too
        """Begin."""
        super().connection_made(transport)
        self.flow = GiveAndTake(transport)

    def awaited(self) -> object | None:
        """Return something while the connection's preface is due; later each stream and the connection have timers."""
        return self.conn if self.timeout_keep_alive_task is None and not self.cycles else None

    def give_up(self) -> None:
        """Close: there is nothing to answer."""
        self.transport.close()

    def handle_events(self) -> None:
        """Act on what the client sent."""
        try:
            super().handle_events()
        except UnicodeDecodeError:
            self.logger.warning("Invalid HTTP/2 request received: the path is not ASCII")
            self.transport.close()
        for flow in self.waiting:
            flow.look()

    def handle_request(self, event: zttp.Request) -> None:
        """Start a stream."""
        super().handle_request(event)
        stream_id = event.stream_id
        self._flows[stream_id] = _Flow(self, self.cycles[stream_id], self._tasks.newest)

    def handle_rst_stream(self, event: zttp.RstStream) -> None:
        """End a stream that the client gave up."""
        super().handle_rst_stream(event)
        flow = self._flows.pop(event.stream_id, None)
        if flow is not None:
            flow.reset()
            flow.disconnected()
            flow.close()

    def on_response_complete(self, stream_id: int) -> None:
        """End a stream that was answered."""
        flow = self._flows.pop(stream_id, None)
        if flow is not None:
            flow.close()
            # Who was answered before the end of the request may still be sending it, and some know no way to stop
            # (httpx 0.28 waits for credit even when the stream is reset): it is thrown away as it comes.
            self.grant(flow)
        super().on_response_complete(stream_id)

    def connection_lost(self, exc: Exception | None) -> None:
        """End all streams."""
        super().connection_lost(exc)
        self.patience.stop()
        flows, self._flows = self._flows, {}
        for flow in flows.values():
            flow.disconnected()
            flow.close()

    def pause_writing(self) -> None:
        """The client takes less than we send."""
        super().pause_writing()
        self.patience.start(self.transport)

    def resume_writing(self) -> None:
        """The client has taken enough of it."""
        super().resume_writing()
        self.patience.stop()

    def flush(self) -> None:
        """Write what zttp has queued, credit for request bodies that nobody has read yet excepted."""
        data = self.conn.data_to_send()
        if data and _WINDOW_UPDATE_START in data:
            data = self._without_early_credit(data)
        if data:
            self.transport.write(data)

    def _without_early_credit(self, data: bytes) -> bytes:
        kept: list[bytes] = []
        begin = at = 0
        while at < len(data):
            high, low, kind, _flags, stream_id = _FRAME_HEADER.unpack_from(data, at)
            body = at + _FRAME_HEADER.size
            end = body + (high << 8 | low)
            if kind == _WINDOW_UPDATE and stream_id:
                flow = self._flows.get(stream_id)
                if flow is not None and flow.cycle.body:
                    flow.withheld += _INCREMENT.unpack_from(data, body)[0]
                    kept.append(data[begin:at])
                    begin = end
            at = end
        return b"".join((*kept, data[begin:])) if kept else data

    def grant(self, flow: _Flow) -> None:
        """Give the client the credit that was withheld."""
        increment, flow.withheld = flow.withheld, 0
        if increment and not self.transport.is_closing():
            stream_id = _INCREMENT.pack(flow.cycle.stream.stream_id)
            self.transport.write(_WINDOW_UPDATE_START + stream_id + _INCREMENT.pack(increment))


class _Tasks:
    """The server's set of tasks, as uvicorn uses it; it remembers the one that was added last."""

    __slots__ = ("_tasks", "discard", "newest")

    def __init__(self, tasks: set[asyncio.Task[None]]) -> None:
        self._tasks = tasks
        self.discard = tasks.discard
        self.newest: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, task: asyncio.Task[None]) -> None:
        """Keep a task until it is done."""
        self._tasks.add(task)
        self.newest = task


class _Flow:
    """What uvicorn's cycle lacks: it stands in front of the cycle's ``send`` and ``receive``."""

    __slots__ = ("_on_disconnect", "_protocol", "_receive", "_send", "_task", "_writable", "cycle", "withheld")

    def __init__(self, protocol: Http2Protocol, cycle: RequestResponseCycle, task: asyncio.Task[None] | None) -> None:
        self._protocol = protocol
        self._task = task
        self.cycle = cycle
        self.withheld = 0
        """Bytes of credit that the client gets when the body that is here has been read."""
        self._writable: asyncio.Future[None] | None = None
        self._on_disconnect: Callable[[], object] | None = None
        self._send = cycle.send
        self._receive = cycle.receive
        # The cycle's task has been made but does not run yet: it finds these in the place of its own methods.
        cycle.send = self.send  # type: ignore[method-assign]
        cycle.receive = self.receive  # type: ignore[method-assign]
        cycle.scope["state"][ON_DISCONNECT] = self._call_on_disconnect

    def close(self) -> None:
        """Step back, the stream is over; as they are, flow and cycle would keep each other alive."""
        cycle = self.cycle
        del cycle.send, cycle.receive, cycle.scope["state"][ON_DISCONNECT]
        self._on_disconnect = None

    def _call_on_disconnect(self, callback: Callable[[], object] | None) -> None:
        self._on_disconnect = callback

    async def receive(self) -> Any:
        """Return the next part of the request; the client gets credit for as much."""
        message = await self._receive()
        if self.withheld and not self.cycle.disconnected:
            self._protocol.grant(self)
        return message

    async def send(self, message: Any) -> None:
        """Send a part of the response; returns when the client has given credit for all of it."""
        await self._send(message)
        if message.get("more_body") and self.cycle.stream.pending_bytes:
            self._protocol.waiting.add(self)
            try:
                await self._drain()
            finally:
                self._protocol.waiting.discard(self)

    async def _drain(self) -> None:
        cycle, patience = self.cycle, self._protocol.patience.seconds
        while not cycle.disconnected and (pending := cycle.stream.pending_bytes):
            self._writable = self._protocol.loop.create_future()
            try:
                async with asyncio.timeout(patience):
                    await self._writable
            except TimeoutError:
                if cycle.stream.pending_bytes == pending:  # Not a byte in all that time: the client is given up.
                    cycle.abort_stream()
                    self.disconnected()
            finally:
                self._writable = None

    def reset(self) -> None:
        """The client gave the stream up. If that came along with the request, nothing is begun for it."""
        if self._task is not None and getcoroutinestate(self._task.get_coro()) == CORO_CREATED:  # type: ignore[arg-type]
            self._task.cancel()

    def look(self) -> None:
        """Something came from the client: perhaps it was credit."""
        writable = self._writable
        if writable is None or writable.done():
            return
        if self.cycle.disconnected or not self.cycle.stream.pending_bytes:
            writable.set_result(None)

    def disconnected(self) -> None:
        """The client is not there any more."""
        self.cycle.message_event.set()
        self.look()
        if self._on_disconnect is not None:
            self._on_disconnect()
