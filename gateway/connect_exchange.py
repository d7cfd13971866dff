"""What a request that ``connectrpc`` serves has on our side: its head, its call; how errors and metadata go back."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

from connectrpc.code import Code
from connectrpc.errors import ConnectError, ErrorDetail
from connectrpc.request import Headers, RequestContext
from protobuf import wkt

from gateway.asgi import Message, Receive, Scope, Send
from gateway.body import BodyReader
from gateway.errors import HttpError, details_of, status_of
from gateway.hangup import on_disconnect
from gateway.headers import RequestHead, answer_headers
from gateway.http_status import CONNECT_NAME
from rpc import Call, Metadata, MethodInfo, StatusCode, StatusError

_COMPRESSED = 1
"""The bit in an envelope's first byte that says that its message is compressed. Connect and gRPC have the same."""

_STATUS_CODE = {Code(name): code for code, name in CONNECT_NAME.items()}


class Exchange:
    """One HTTP request on its way through ``connectrpc``, which hands its handlers less than that."""

    __slots__ = ("_bodies", "_may_pause", "_plain", "_receive", "_scope", "_send", "_skip_message", "_task", "head")

    def __init__(
        self, info: MethodInfo, head: RequestHead, scope: Scope, receive: Receive, send: Send, bodies: BodyReader
    ) -> None:
        self.head = head
        self._scope = scope
        self._receive = receive
        self._send = send
        self._bodies = bodies
        self._may_pause = info.client_streaming
        self._task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]  # an application has one
        self._skip_message = False
        self._plain = False

    async def receive(self) -> Message:
        """Return what comes from the client, as slowly and as much of it as may be held.

        Raises ``ConnectError``.
        """
        try:
            message = await (self._receive() if self._may_pause else self._bodies.part(self._receive))
            if message.get("more_body"):
                self._bodies.hold(self._task, len(message.get("body", b"")))
            else:
                self._may_pause = True  # What is left to come is the client's end, and there is no hurry.
        except HttpError as error:
            raise ConnectError(Code(CONNECT_NAME[error.code]), error.message) from error
        return message

    def message_taken(self) -> None:
        """A request message has been put together and is on its way: what was held was mostly that."""
        self._bodies.release(self._task)

    def skip_message(self) -> None:
        """Let the next response message not reach the client.

        connectrpc sends the head together with the first message. A back-end may have sent its initial metadata long
        before: a message that is made up for the purpose, and skipped, makes the head go.
        """
        self._skip_message = True

    def leave_message(self) -> None:
        """Let the message that is being compressed reach the client as it is, although connectrpc marks it otherwise.

        Its envelopes always say that they are compressed once client and server have agreed on a way.
        """
        self._plain = True

    async def send(self, message: Message) -> None:
        """Send what connectrpc sends."""
        if self._plain and message["type"] == "http.response.body":
            self._plain = False
            envelope = message["body"]
            message = {**message, "body": bytes((envelope[0] & ~_COMPRESSED,)) + envelope[1:]}
        if self._skip_message and message["type"] == "http.response.body":
            self._skip_message = False
            if message.get("more_body"):
                return
        await self._send(message)

    def cancel_at_disconnect(self, call: Call) -> None:
        """Cancel the call when the client hangs up, also while nobody reads its request."""
        on_disconnect(self._scope, lambda: call.cancel(StatusCode.CANCELLED, "the HTTP client hung up"))

    def ended(self) -> None:
        """Forget the call."""
        on_disconnect(self._scope, None)


current: ContextVar[Exchange] = ContextVar("gateway-exchange")
"""The request that the running task serves."""


def connect_error(call: Call, error: StatusError) -> ConnectError:
    """Return a failed call's error, with its details."""
    code, message = status_of(error)
    details = [
        ErrorDetail(wkt.Any.from_binary(detail.SerializeToString())) for detail in details_of(call.trailing_metadata)
    ]
    return ConnectError(Code(CONNECT_NAME[code]), message, details)


def status_code(error: ConnectError) -> StatusCode:
    """Return the code that connectrpc gave an error."""
    return _STATUS_CODE[error.code]


def add_headers(headers: Headers, metadata: Metadata) -> None:
    """Add metadata of a back-end to headers or trailers."""
    for name, value in answer_headers(metadata, ()):
        headers.add(name.decode(), value.decode())


def add_metadata(context: RequestContext[Any, Any], call: Call) -> None:
    """Answer the metadata of a call that has ended, none of which was answered before."""
    if call.initial_metadata:
        add_headers(context.response_headers, call.initial_metadata)
    if call.trailing_metadata:
        add_headers(context.response_trailers, call.trailing_metadata)
