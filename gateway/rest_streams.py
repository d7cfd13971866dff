"""REST for methods with a stream of responses: one HTTP response that goes on.

What fails before its head is sent has its proper HTTP status; what fails later is told in the stream.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

from google.protobuf.any_pb2 import Any as GoogleAny

from gateway.asgi import AsgiApp, Receive, Scope, Send
from gateway.errors import details_of, rest_error, status_of
from gateway.headers import RequestHead, answer_headers
from gateway.http_rule import Binding
from gateway.rest import refuse_unreadable
from gateway.schema import Method, Schema
from gateway.stream_formats import STREAM_HEADERS, Raw, StreamFormat, json_format
from gateway.streams import SILENCE, beginning, next_message
from gateway.transcode import Answer, RequestTranscoder, ResponseError, answers_raw, response_transcoder
from gateway.unary import UnaryServer, answer_error
from rpc import Call, Metadata, OpenCall, Stats, StatusCode, StatusError

logger = logging.getLogger(__name__)

IS_HEAD = "natsmesh.is_head"
"""In the scope of a HEAD request that is served as GET."""


class ServerStreamRoute:
    """One binding of one method with a stream of responses."""

    __slots__ = (
        "_answer",
        "_is_raw",
        "_registry",
        "_server",
        "_transcoder",
        "binding",
        "has_body",
        "http_method",
        "info",
        "numbers",
        "template",
    )

    def __init__(
        self,
        method: Method,
        binding: Binding,
        schema: Schema,
        server: UnaryServer,
        stats: Stats,
        *,
        ignore_unknown: bool,
    ) -> None:
        """Raises ``RuleError`` when the binding does not fit the method."""
        self.info = method.info
        self.binding = binding
        self.http_method = binding.http_method
        self.template = binding.template
        self._server = server
        self._registry = schema.registry
        self._transcoder = RequestTranscoder(method, binding, schema.registry, ignore_unknown=ignore_unknown)
        self._answer = response_transcoder(method, binding, schema.registry)
        self._is_raw = answers_raw(method, binding)
        self.has_body = self._transcoder.has_body
        self.numbers = stats.entry(binding.http_method, binding.template.source, "http")

    def serve(self, scope: Scope, receive: Receive, send: Send, segments: list[bytes]) -> Awaitable[None]:
        """Answer one request whose path matched."""
        return self._server.serve(self, scope, receive, send, segments)

    def other_way(self, head: RequestHead, segments: list[bytes]) -> AsgiApp:
        """Always: a stream is not for the lean path."""
        if head.codings is not None:
            refuse_unreadable(head.codings, has_body=self.has_body)
        return partial(self._stream, head, segments)

    def prepare(
        self, _head: RequestHead, _body: bytes, _segments: list[bytes], _query: bytes
    ) -> tuple[bytes, Callable[[bytes], Answer]]:
        """Never: nothing here is unary."""
        raise NotImplementedError

    def error(self, code: StatusCode, message: str, details: Sequence[GoogleAny]) -> bytes:
        """Return a ``google.rpc.Status``."""
        return rest_error(code, message, details, self._registry)

    async def _stream(
        self, head: RequestHead, segments: list[bytes], scope: Scope, receive: Receive, send: Send
    ) -> None:
        server = self._server
        body = await server.bodies.read(receive, head.content_length) if self.has_body else b""
        request = self._transcoder.request(body, head.content_type, segments, scope["query_string"])
        response = self._response(scope, send)
        if IS_HEAD in scope:
            await response.begin(())
            await response.end(b"")
            return
        deadline = server.stream_deadline(head.timeout)
        call = Call(self.info, request, metadata=tuple(head.metadata or ()), deadline=deadline)
        async with self._failures_told(call, response), server.open(call) as opened:
            server.watch.add(call, receive)
            try:
                await self._relay(opened, response)
            finally:
                server.watch.remove(call)

    def _response(self, scope: Scope, send: Send) -> Response:
        return Response(Raw() if self._is_raw else json_format(scope["headers"]), send)

    @asynccontextmanager
    async def _failures_told(self, call: Call, response: Response) -> AsyncIterator[None]:
        """Tell the client how the call has failed, if it does within the block."""
        try:
            yield
        except (StatusError, ResponseError) as error:
            await self._fail(error, call, response)
        except asyncio.CancelledError:
            # The server stops, and has waited for us as long as it may.
            await self._fail(StatusError(StatusCode.UNAVAILABLE, "the gateway is shutting down"), call, response)
            raise

    async def _relay(self, opened: OpenCall, response: Response) -> None:
        style = response.style
        interval = self._server.heartbeat if style.has_heartbeat else None
        headers, message = await beginning(opened, interval)
        if message is SILENCE and self._is_raw:
            message = await opened.read()  # Without a message there is no content type.
        while message is not None:
            data = style.heartbeat() if message is SILENCE else style.message(*self._answer(message))
            if not response.has_begun:
                await response.begin(headers)
            if data:
                await response.write(data)
            message = await next_message(opened, interval)
        if not response.has_begun:
            await response.begin(headers)
        await response.end(style.end(opened.call.trailing_metadata))

    async def _fail(self, error: StatusError | ResponseError, call: Call, response: Response) -> None:
        if isinstance(error, ResponseError):
            logger.warning("%s: %s", self.info.full_name, error)
        if not response.has_begun:
            await answer_error(self, error, call, b"", response.send)
            return
        if isinstance(error, ResponseError):
            status = self.error(StatusCode.INTERNAL, str(error), ())
        else:
            code, message = status_of(error)
            status = self.error(code, message, details_of(call.trailing_metadata))
        last = response.style.error(status)
        if last is not None:
            await response.end(last)
        elif call.cancelled is None:
            # The server cuts a response that has no end: the one way to say that something is missing.
            logger.warning("%s: a stream of raw bytes was cut off: %s", self.info.full_name, error)


class Response:
    """The HTTP response that carries a stream."""

    def __init__(self, style: StreamFormat, send: Send) -> None:
        self.style = style
        self.send = send
        self.has_begun = False

    async def begin(self, metadata: Metadata) -> None:
        """Send the head: what happens from now on does not change the status any more."""
        self.has_begun = True
        content_type = self.style.content_type or b"application/octet-stream"
        headers = [(b"content-type", content_type), *STREAM_HEADERS, *answer_headers(metadata, ())]
        await self.send({"type": "http.response.start", "status": 200, "headers": headers})

    async def write(self, data: bytes) -> None:
        """Send a part; returns when the client has taken enough of those before."""
        await self.send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes) -> None:
        """Send the last part."""
        await self.send({"type": "http.response.body", "body": data})
