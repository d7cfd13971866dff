"""Uploads: a REST request whose body becomes a stream of ``google.api.HttpBody`` messages, chunk by chunk.

The body is read as fast as the service takes it, so what the gateway holds of it does not depend on its size. The first
message has the content type, and whatever path and query say; the later ones have data only.

Source: google/api/httpbody.proto ("can be used both in streaming and non-streaming API methods in the request").
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial

from gateway.asgi import Message, Receive, Scope, Send
from gateway.errors import HttpError
from gateway.hangup import on_disconnect
from gateway.headers import RequestHead, answer_headers
from gateway.http_rule import Binding
from gateway.rest_streams import Response, ServerStreamRoute
from gateway.schema import Method, Schema
from gateway.transcode import chunk_encoder
from gateway.unary import UnaryServer
from rpc import Call, OpenCall, Stats, StatusCode, StatusError

MAX_CHUNK = 128 * 1024
"""Bytes of a body that one message has at most, whatever the server hands over at once."""


class UploadRoute(ServerStreamRoute):
    """One binding of one method with a stream of requests that are HTTP bodies; its responses may be a stream, too."""

    __slots__ = ("_later",)

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
        """The body of the binding is raw. Raises ``RuleError`` when the binding does not fit the method."""
        super().__init__(method, binding, schema, server, stats, ignore_unknown=ignore_unknown)
        self._later = chunk_encoder(method, binding)

    async def _stream(
        self, head: RequestHead, segments: list[bytes], scope: Scope, receive: Receive, send: Send
    ) -> None:
        server = self._server
        first = partial(self._first, head, segments, scope["query_string"])
        first(b"")  # What is wrong with path and query is told before anything else happens.
        limit = server.max_upload
        if limit is not None and head.content_length > limit:
            raise _too_large(limit)
        response = self._response(scope, send)
        call = Call(self.info, metadata=tuple(head.metadata or ()), deadline=server.stream_deadline(head.timeout))
        upload = _Upload(server, receive, first, self._later)
        async with self._told(call, response, upload), server.open(call) as opened, upload.sent_to(opened):
            on_disconnect(scope, partial(call.cancel, StatusCode.CANCELLED, "the HTTP client hung up"))
            try:
                await (self._relay(opened, response) if self.info.server_streaming else self._answer_one(opened, send))
            finally:
                on_disconnect(scope, None)

    def _first(self, head: RequestHead, segments: list[bytes], query: bytes, data: bytes) -> bytes:
        return self._transcoder.request(data, head.content_type, segments, query)

    @asynccontextmanager
    async def _told(self, call: Call, response: Response, upload: _Upload) -> AsyncIterator[None]:
        """Tell the client how the call has failed, or what was wrong with its body."""
        async with self._failures_told(call, response):
            try:
                yield
            except StatusError:
                if upload.failure is not None and not response.has_begun:
                    raise upload.failure from None
                raise

    async def _answer_one(self, opened: OpenCall, send: Send) -> None:
        data = await opened.read()
        assert data is not None  # noqa: S101 - a call that is OK has its response
        content_type, body = self._answer(data)
        headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
        headers += answer_headers(opened.call.initial_metadata, opened.call.trailing_metadata)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class _Upload:
    """Sends a body while the call's responses are read."""

    def __init__(
        self, server: UnaryServer, receive: Receive, first: Callable[[bytes], bytes], later: Callable[[bytes], bytes]
    ) -> None:
        self._bodies = server.bodies
        self._limit = server.max_upload
        self._receive = receive
        self._encode = first
        self._later = later
        self._size = 0
        self.failure: HttpError | None = None
        """What was wrong with the body."""

    @asynccontextmanager
    async def sent_to(self, opened: OpenCall) -> AsyncIterator[None]:
        """Send the body within the block; what is left of it afterwards is not read."""
        task = asyncio.create_task(self._send(opened))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            self._bodies.release(task)
            if not task.cancelled():
                task.result()  # What is raised there is a bug.

    async def _send(self, opened: OpenCall) -> None:
        try:
            while True:
                # A service that is slow is no fault of the client: only waiting for the client is timed.
                message = await self._bodies.part(self._receive)
                if message["type"] == "http.disconnect":
                    opened.cancel(StatusCode.CANCELLED, "the HTTP client hung up")
                    return
                for chunk in self._chunks(message):
                    if not await opened.write(chunk):
                        return
                if not message.get("more_body"):
                    break
            await opened.half_close()
        except HttpError as error:
            self.failure = error
            opened.cancel(error.code, error.message)
            return
        except Exception:  # a bug: whoever waits for the answer must not wait for ever, and will find it here
            opened.cancel(StatusCode.INTERNAL, "internal error")
            raise
        while (await self._receive())["type"] != "http.disconnect":
            pass
        opened.cancel(StatusCode.CANCELLED, "the HTTP client hung up")

    def _chunks(self, message: Message) -> Iterator[bytes]:
        """Yield the messages for a part of the body. Raises ``HttpError`` 413."""
        data: bytes = message.get("body", b"")
        self._size += len(data)
        if self._limit is not None and self._size > self._limit:
            raise _too_large(self._limit)
        is_first = self._encode is not self._later
        if data or (is_first and not message.get("more_body")):
            for start in range(0, max(len(data), 1), MAX_CHUNK):
                yield self._encode(data[start : start + MAX_CHUNK])
                self._encode = self._later


def _too_large(limit: int) -> HttpError:
    return HttpError(
        StatusCode.RESOURCE_EXHAUSTED, f"the body is larger than {limit} bytes, the most that is allowed", status=413
    )
