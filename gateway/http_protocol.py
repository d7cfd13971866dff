"""uvicorn's HTTP protocols, less some sharp edges.

uvicorn 0.54 decodes paths as ASCII where it does not expect to fail: a byte beyond it ends in the event loop's
exception handler, with a traceback in the log for whoever cares to send one. Here it is a malformed request like any
other. And a client that does not take its answer is waited for without end: here it is given up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import zttp
from uvicorn.config import Config
from uvicorn.protocols.http.auto_zttp_impl import AutoZttpProtocol
from uvicorn.protocols.http.zttp_impl import ZttpProtocol
from uvicorn.server import ServerState

from gateway.cork import CorkedTransport
from gateway.hangup import ON_DISCONNECT
from gateway.http2 import Http2Protocol
from gateway.patience import WritePatience


class Http1Protocol(ZttpProtocol):
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

    def _call_on_disconnect(self, callback: Callable[[], None] | None) -> None:
        self._on_disconnect = callback

    def handle_events(self, event: zttp.Event) -> None:
        """Act on what the client sent."""
        try:
            super().handle_events(event)
        except UnicodeDecodeError:
            self.handle_remote_protocol_error()

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


class HttpProtocol(AutoZttpProtocol):
    """A connection of either kind: which one, its first bytes or ALPN tell."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn has it so, too
        """Begin; what is written goes through a cork."""
        super().connection_made(CorkedTransport(transport, self.loop))  # type: ignore[arg-type]  # by __getattr__ it is one

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
