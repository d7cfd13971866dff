"""An open WebSocket that carries one call: messages both ways, and how it ends.

    client to gateway    a message each request; an empty text: no more requests (half-close)
    gateway to client    a message each response; then close 1000, the call is OK;
                         or a text {"error": google.rpc.Status} and close 4000 + the code

Each direction is as fast as its reader takes it: the next request is read from the socket when the back-end has room
for it, the next response from the back-end when the client has taken enough of those before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from google.protobuf.any_pb2 import Any as GoogleAny

from gateway.asgi import Message as AsgiMessage
from gateway.errors import BadRequest, HttpError, details_of, status_of
from gateway.hangup import on_disconnect
from gateway.headers import RequestHead, new_request_id
from gateway.transcode import ResponseError
from gateway.unary import UnaryServer, internal_error
from gateway.websocket_handshake import Handshake
from gateway.websocket_messages import Decode, Encode, text_message
from rpc import Call, Metadata, MethodInfo, OpenCall, StatusCode, StatusError

logger = logging.getLogger(__name__)

OK_CLOSE: Final = 1000
"""RFC 6455, 7.4.1: normal closure."""

ERROR_CLOSE: Final = 4000
"""What is added to the code of a gRPC status; RFC 6455, 7.4.2 has 4000 to 4999 for private use."""

MAX_REASON: Final = 123
"""Bytes; RFC 6455, 5.5: a control frame has 125, two of which are the code."""

_HUNG_UP: Final = "the WebSocket client hung up"

ErrorBody = Callable[[StatusCode, str, Sequence[GoogleAny]], bytes]


class _ClientGoneError(Exception):
    """The client has closed the socket, or lost it."""


class Session:
    """One socket, one call."""

    def __init__(
        self,
        info: MethodInfo,
        server: UnaryServer,
        socket: Handshake,
        *,
        head: RequestHead,
        deadline: float | None,
        request: bytes | None,
        codec: tuple[Decode, Encode],
        error_body: ErrorBody,
    ) -> None:
        """``request`` is there when the URL is all that there is of it: then no message is waited for."""
        self._info = info
        self._server = server
        self._socket = socket
        self._metadata: Metadata = tuple(head.metadata or ())
        self._request_id = head.request_id or new_request_id()
        self._deadline = deadline
        self._request = request
        self._decode, self._encode = codec
        self._error_body = error_body
        self._no_more = False
        """Whether no request may follow."""
        self._is_gone = False
        """Whether the client has closed the socket, or lost it: there is nobody to tell anything."""
        self._failure: HttpError | None = None
        """What was wrong with the requests: for the client, it is the status of the call."""

    async def run(self) -> None:
        """Carry the call, then close the socket. Whatever happens is told to the client."""
        trailing: Metadata = ()
        try:
            call = await self._first_request()
            try:
                await self._carry(call)
            finally:
                trailing = call.trailing_metadata
            await self._socket.send({"type": "websocket.close", "code": OK_CLOSE})
        except (_ClientGoneError, OSError):
            pass
        except asyncio.CancelledError:
            await self._fail(StatusCode.UNAVAILABLE, "the gateway is shutting down", ())
            raise
        except HttpError as error:
            await self._fail(error.code, error.message, error.details)
        except ResponseError as error:
            logger.warning("%s: %s (request %s)", self._info.full_name, error, self._request_id.decode())
            await self._fail(StatusCode.INTERNAL, str(error), ())
        except StatusError as error:
            await self._fail(*status_of(error), details_of(trailing))
        except Exception:
            logger.exception("%s: request %s failed", self._info.full_name, self._request_id.decode())
            await self._fail(StatusCode.INTERNAL, internal_error(self._request_id), ())

    async def _first_request(self) -> Call:
        """Return the call to make: one with a single request begins when that is here.

        Raises ``HttpError``, ``StatusError``, ``_ClientGoneError``.
        """
        request = self._request
        if request is None and not self._info.client_streaming:
            try:
                async with asyncio.timeout_at(self._deadline):
                    message = await self._next()
            except TimeoutError:
                raise StatusError(StatusCode.DEADLINE_EXCEEDED, "no request came in time") from None
            if message is None:
                raise BadRequest(
                    f"{self._info.full_name} takes one request: send it before you say that it was the last"
                )
            request = self._decode(message)
        self._no_more = request is not None
        return Call(self._info, request or b"", metadata=self._metadata, deadline=self._deadline)

    async def _carry(self, call: Call) -> None:
        """Make the call. Raises ``StatusError`` or what was wrong with a message."""
        scope = self._socket.scope
        async with OpenCall(self._server.invoke, call) as opened:
            reader = asyncio.create_task(self._read(opened))
            on_disconnect(scope, partial(opened.cancel, StatusCode.CANCELLED, _HUNG_UP))
            try:
                while (response := await opened.read()) is not None:
                    await self._socket.send(self._encode(response))
            except StatusError:
                if self._failure is not None:
                    raise self._failure from None
                raise
            finally:
                on_disconnect(scope, None)
                reader.cancel()
                await asyncio.wait([reader])

    async def _read(self, opened: OpenCall) -> None:
        """Send the requests of the call, and notice when the client goes."""
        try:
            while True:
                message = await self._next()
                if message is None:
                    if not self._no_more:
                        self._no_more = True
                        await opened.half_close()
                elif self._no_more:
                    raise BadRequest("there was to be no more request: send none after the last")
                elif not await opened.write(self._decode(message)):
                    return
        except _ClientGoneError:
            opened.cancel(StatusCode.CANCELLED, _HUNG_UP)
        except HttpError as error:
            self._failure = error
            opened.cancel(error.code, error.message)
        except Exception:
            logger.exception("%s: request %s failed", self._info.full_name, self._request_id.decode())
            self._failure = HttpError(StatusCode.INTERNAL, internal_error(self._request_id))
            opened.cancel(StatusCode.INTERNAL, self._failure.message)

    async def _next(self) -> AsgiMessage | None:
        """Return the next message of the client; None when it says that there are no more.

        Raises ``_ClientGoneError``.
        """
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            self._is_gone = True
            raise _ClientGoneError
        return None if message.get("text") == "" else message

    async def _fail(self, code: StatusCode, message: str, details: Sequence[GoogleAny]) -> None:
        """Tell the client the status, and close the socket."""
        if self._is_gone:
            return
        reason = message.encode("utf-8", "replace")[:MAX_REASON].decode("utf-8", "ignore")
        with suppress(OSError):
            await self._socket.send(text_message(b'{"error":' + self._error_body(code, message, details) + b"}"))
            close = {"type": "websocket.close", "code": ERROR_CLOSE + code.value[0], "reason": reason}
            await self._socket.send(close)
