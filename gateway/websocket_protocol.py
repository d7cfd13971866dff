"""One WebSocket connection: uvicorn's protocol on the ``websockets`` library, less some sharp edges.

Loaded when the first WebSocket comes. What uvicorn 0.54 does otherwise: fragments of a message pile up one by one,
empty ones without end; a client whose messages are not read, because its service is slow, cannot be heard answering
pings and is cut off; a client that takes nothing is waited for without end; a handshake that ``websockets`` refuses to
parse ends in a traceback; and a stop of the server closes all sockets at once, whatever time there was to be.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from uvicorn.config import Config
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Frame
from websockets.http11 import Request

from gateway.hangup import ON_DISCONNECT
from gateway.patience import WritePatience

_logger = logging.getLogger("gateway.websocket")
_logger.setLevel(logging.WARNING)  # Each socket would be a line, with its query string.

_REFUSAL: Final = b"the WebSocket handshake is malformed\n"
_BAD_REQUEST: Final = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(_REFUSAL), _REFUSAL)
)

_ABNORMAL: Final = 1006
_INVALID_DATA: Final = 1007
"""RFC 6455, 7.4.1: a text that is not UTF-8."""


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """One connection, from its handshake on."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, {**app_state, ON_DISCONNECT: self._call_on_disconnect}, _loop)
        self.logger = self.conn.logger = _logger
        self._patience = WritePatience(config, self.loop)
        self._on_disconnect: Callable[[], object] | None = None

    def _call_on_disconnect(self, callback: Callable[[], object] | None) -> None:
        self._on_disconnect = callback

    # ---------------------------------------------------------------------------------------------- connection

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

    def shutdown(self) -> None:
        """The server stops: the socket may go on until its application is told to end, as all streams may."""
        if self.close_sent:
            super().shutdown()

    # ----------------------------------------------------------------------------------------------- handshake

    def data_received(self, data: bytes) -> None:
        """Take what the client sent."""
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated and not self.close_sent:
            self._refuse_handshake()

    def handle_parser_exception(self) -> None:
        """The client has sent what is no WebSocket message, or no handshake."""
        if self.conn.close_sent is not None:
            super().handle_parser_exception()
        else:
            self._refuse_handshake()

    def handle_connect(self, event: Request) -> None:
        """Begin."""
        if event.path.isascii():
            super().handle_connect(event)
        else:
            self._refuse_handshake()

    def _refuse_handshake(self) -> None:
        self.queue.put_nowait({"type": "websocket.disconnect", "code": _ABNORMAL})
        self.handshake_complete = self.close_sent = True
        self.transport.write(_BAD_REQUEST)
        self.transport.close()

    # ------------------------------------------------------------------------------------------------ messages

    def handle_cont(self, event: Frame) -> None:
        """Add a fragment to the message that it is of."""
        gathered: Any = self.frames[0]
        if not isinstance(gathered, bytearray):
            self.frames[0] = gathered = bytearray(gathered)  # type: ignore[call-overload]  # as good as bytes
        gathered += event.data
        if event.fin:
            self.send_receive_event_to_app()

    def send_receive_event_to_app(self) -> None:
        """Hand over a message, unless it is a text that is none."""
        if self.curr_msg_data_type == "text" and not self.close_sent:
            try:
                bytes(self.frames[0]).decode()
            except UnicodeDecodeError:
                self.frames = []
                self.conn.fail(_INVALID_DATA, "the text is not UTF-8")
                self.handle_parser_exception()
                return
        super().send_receive_event_to_app()

    def keepalive_timeout(self) -> None:
        """No answer to a ping: it counts only if we would have heard it."""
        if self.read_paused:
            self.pong_timer = None
            self.pending_ping_payload = None
            self.schedule_ping()
        else:
            super().keepalive_timeout()

    async def send(self, message: Any) -> None:
        """Send what the application sends. Raises ``ClientDisconnected``, an ``OSError``."""
        await self.writable.wait()
        if self.close_sent and self.handshake_complete:
            raise ClientDisconnected
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            self.handshake_complete = True  # It was refused, and that is no mistake of the application.
