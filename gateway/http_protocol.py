"""uvicorn's HTTP protocols, less some sharp edges.

uvicorn 0.54 decodes paths as ASCII where it does not expect to fail: a byte beyond it ends in the event loop's
exception handler, with a traceback in the log for whoever cares to send one. Here it is a malformed request like any
other. A malformed body is answered with 400 even where the answer has begun, or is under way. What a client sends
while its request is served is gathered without a bound that matters. And clients that do not take their answers, or do
not finish their requests, are waited for without end: here they are given up.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any, Final

import zttp
from uvicorn.config import Config
from uvicorn.protocols.http.auto_zttp_impl import AutoZttpProtocol
from uvicorn.protocols.http.zttp_impl import ZttpProtocol
from uvicorn.server import ServerState

from gateway.cork import CorkedTransport
from gateway.hangup import ON_DISCONNECT
from gateway.http2 import Http2Protocol
from gateway.patience import TakesTurns, WaitsForHead, WritePatience, patient

_NOTHING: Final = object()
"""What is waited for before the first request."""

_NO_ROOM: Final = b"the gateway has no room for more connections: try again\n"
_FULL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n"
    b"retry-after: 1\r\nconnection: close\r\n\r\n%s" % (len(_NO_ROOM), _NO_ROOM)
)


_LARGE_HEAD: Final = (
    b"the request line and headers are larger than 16 KiB, or more than 99 headers: send fewer or shorter ones\n"
)
"""zttp's limits (0.0.35); they cannot be set."""


class Http1Protocol(ZttpProtocol, WaitsForHead):
    """One HTTP/1.1 connection."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        # Each request's scope gets a copy: the way to tell a request of its client's end without a task that waits.
        super().__init__(config, server_state, {**app_state, ON_DISCONNECT: self._call_on_disconnect}, _loop)
        self._patience = WritePatience(config, self.loop)
        self._on_disconnect: Callable[[], None] | None = None
        self._turns: TakesTurns

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn has it so, too
        """Begin."""
        super().connection_made(transport)
        self.flow = self._turns = TakesTurns(transport)

    def _call_on_disconnect(self, callback: Callable[[], None] | None) -> None:
        self._on_disconnect = callback

    def handle_events(self, event: zttp.Event) -> None:
        """Act on what the client sent."""
        if event is zttp.NEED_DATA and self._is_busy():
            self._wait_with_reading()
        try:
            super().handle_events(event)
        except UnicodeDecodeError:
            self.handle_remote_protocol_error()

    def _wait_with_reading(self) -> None:
        """Leave what the client sends in its hurry where it is, lest we gather it without end."""
        self.flow.pause_reading()
        self._turns.ahead = True
        self.cycle.on_response = self._catch_up

    def _catch_up(self) -> None:
        """Go on with what has been read already; reading goes on after the last of it."""
        self._turns.ahead = False
        self.on_response_complete()
        if self._is_busy() and not self.transport.is_closing():
            self._wait_with_reading()

    def _is_busy(self) -> bool:
        """Tell whether a request has come whole and is not answered yet."""
        cycle = self.cycle
        return cycle is not None and not cycle.more_body and not cycle.response_complete

    def handle_remote_protocol_error(self) -> None:
        """Answer what is no request, or no body, if there is still an answer to give."""
        cycle = self.cycle
        if cycle is None or (cycle.response_complete and not cycle.more_body):
            if "size limit" in str(sys.exception()):
                self._refuse_large_head()
            else:
                super().handle_remote_protocol_error()
            return
        if not cycle.response_started:
            super().handle_remote_protocol_error()
        # Whoever serves it finds its client gone, and says no more.
        cycle.disconnected = True
        cycle.message_event.set()
        self.transport.close()

    def _refuse_large_head(self) -> None:
        """Say which limit it is: a client with too many cookies would look for a mistake where there is none."""
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(_LARGE_HEAD))]
        self.conn.send_response(431, [*headers, (b"connection", b"close")])
        self.conn.send_data(_LARGE_HEAD)
        self.conn.end_message()
        self.transport.write(self.conn.data_to_send())
        self.transport.close()

    def awaited(self) -> object | None:
        """Return the request before; None while one is served, or while the connection is idle."""
        cycle = self.cycle
        if self.timeout_keep_alive_task is not None:
            return None
        if cycle is None:
            return _NOTHING
        return cycle if cycle.response_complete else None

    def give_up(self) -> None:
        """Say that it takes too long, if it has begun, and close."""
        cycle = self.cycle
        if cycle is None or not cycle.more_body:
            self.conn.send_response(408, [(b"content-length", b"0"), (b"connection", b"close")])
            self.transport.write(self.conn.data_to_send())
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """End what is under way."""
        super().connection_lost(exc)
        self._patience.stop()
        if self._on_disconnect is not None:
            self._on_disconnect()

    def pause_writing(self) -> None:
        """The client takes less than we send."""
        super().pause_writing()
        self._patience.start(self.transport)

    def resume_writing(self) -> None:
        """The client has taken enough of it."""
        super().resume_writing()
        self._patience.stop()


class HttpProtocol(AutoZttpProtocol, WaitsForHead):
    """A connection of either kind: which one, its first bytes or ALPN tell."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn has it so, too
        """Begin; what is written goes through a cork."""
        config = patient(self.config)
        if len(self.connections) >= config.max_connections:
            self.transport = transport
            transport.write(_FULL)
            transport.close()
            return
        corked: Any = CorkedTransport(transport, self.loop, config.write_patience)  # by __getattr__ it is a transport
        super().connection_made(corked)
        config.head_patience.watch(self.connections, self.loop)

    def awaited(self) -> object:
        """Return that nothing has been recognised yet."""
        return _NOTHING

    def give_up(self) -> None:
        """Close: there is nothing to answer."""
        self.transport.close()

    def _switch(self, http2: bool, initial_data: bytes = b"") -> None:
        # As uvicorn's own, with our classes in the place of its.
        kind = Http2Protocol if http2 else Http1Protocol
        protocol = kind(config=self.config, server_state=self.server_state, app_state=self.app_state, _loop=self.loop)
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        if initial_data:
            protocol.data_received(initial_data)


def websocket_protocol(**arguments: Any) -> asyncio.Protocol:
    """Return what goes on with a connection that becomes a WebSocket. Most gateways never see one."""
    from gateway.websocket_protocol import WebSocketProtocol  # noqa: PLC0415 - loaded when the first one comes

    return WebSocketProtocol(**arguments)
