"""uvicorn's HTTP protocols, less a sharp edge.

uvicorn 0.54 decodes paths as ASCII where it does not expect to fail: a byte beyond it ends in the event loop's
exception handler, with a traceback in the log for whoever cares to send one. Here it is a malformed request like any
other.
"""

from __future__ import annotations

import zttp
from uvicorn.protocols.http.auto_zttp_impl import AutoZttpProtocol
from uvicorn.protocols.http.zttp_h2_impl import ZttpH2Protocol
from uvicorn.protocols.http.zttp_impl import ZttpProtocol


class Http1Protocol(ZttpProtocol):
    """One HTTP/1.1 connection."""

    def handle_events(self, event: zttp.Event) -> None:
        """Act on what the client sent."""
        try:
            super().handle_events(event)
        except UnicodeDecodeError:
            self.handle_remote_protocol_error()


class Http2Protocol(ZttpH2Protocol):
    """One HTTP/2 connection."""

    def handle_events(self) -> None:
        """Act on what the client sent."""
        try:
            super().handle_events()
        except UnicodeDecodeError:
            self.logger.warning("Invalid HTTP/2 request received: the path is not ASCII")
            self.transport.close()


class HttpProtocol(AutoZttpProtocol):
    """A connection of either kind: which one, its first bytes or ALPN tell."""

    def _switch(self, http2: bool, initial_data: bytes = b"") -> None:
        # As uvicorn's own, with our classes in the place of its.
        kind = Http2Protocol if http2 else Http1Protocol
        protocol = kind(config=self.config, server_state=self.server_state, app_state=self.app_state, _loop=self.loop)
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        if initial_data:
            protocol.data_received(initial_data)
