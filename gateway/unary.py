"""The lean path: one HTTP request, one call, one HTTP response. REST and plain Connect requests both take it.

What differs between them is in their routes: how a request becomes bytes, how bytes become an answer, how an error
looks. Whatever can be prepared when a route is built is; nothing here does work per request that could be done there.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from google.protobuf.any_pb2 import Any as GoogleAny

from gateway.asgi import AsgiApp, Receive, Scope, Send
from gateway.body import BodyReader, ClientGone
from gateway.compression_asgi import CompressingSend, compressing, decompressing
from gateway.connect_stream_error import connect_stream_type, end_of_stream
from gateway.errors import HttpError, details_of, status_of
from gateway.grpc_error import grpc_kind, grpc_status, send_grpc_error
from gateway.hangup import HangupWatch
from gateway.headers import HeaderReader, RequestHead, answer_headers, new_request_id
from gateway.http_status import HTTP_STATUS
from gateway.path_template import PathTemplate
from gateway.transcode import JSON, Answer, ResponseError
from rpc import Call, Handler, MethodInfo, OpenCall, StatusCode, StatusError

if TYPE_CHECKING:
    from gateway.config import Config
    from rpc.telemetry import HttpTracer  # loads OpenTelemetry

logger = logging.getLogger(__name__)

TEXT = b"text/plain; charset=utf-8"

CLIENT_GONE = 499
"""The status of requests whose client hung up: for logs and numbers, it is never sent."""


class Numbers(Protocol):
    """Counts the requests of one route."""

    def record(self, code: int, seconds: float) -> None:
        """Count one request: its HTTP status and duration."""


class UnaryRoute(Protocol):
    """What the lean path asks of a route."""

    @property
    def http_method(self) -> str:
        """``GET``, ``POST`` ... or ``*``."""

    @property
    def template(self) -> PathTemplate:
        """Which paths lead here."""

    @property
    def info(self) -> MethodInfo:
        """The method that is called."""

    @property
    def has_body(self) -> bool:
        """False: the body, if there is one, is not read."""

    @property
    def numbers(self) -> Numbers:
        """Where requests of this route are counted."""

    def other_way(self, head: RequestHead, segments: list[bytes]) -> AsgiApp | None:
        """Return who serves a request that is not plain, or None when it is. Raises ``HttpError``."""

    def prepare(
        self, head: RequestHead, body: bytes, segments: list[bytes], query: bytes
    ) -> tuple[bytes, Callable[[bytes], Answer]]:
        """Return the serialized request, and what makes an answer of the serialized response. Raises ``HttpError``."""

    def error(self, code: StatusCode, message: str, details: Sequence[GoogleAny]) -> bytes:
        """Return an error as this front-end's JSON."""


class UnaryServer:
    """Carries unary requests through ``invoke``. One per worker; it belongs to the event loop that it is made on."""

    def __init__(self, invoke: Handler, config: Config, *, tracer: HttpTracer | None) -> None:
        self.invoke = invoke
        self.headers = HeaderReader(config.forward_headers)
        self.bodies = BodyReader(config.max_body, config.body_patience, config.max_held)
        self.compress_from = config.compression.minimum if config.compression.responses else None
        """Bytes; None: nothing is compressed for clients."""
        self._compress_from = self.compress_from or sys.maxsize
        self.watch = HangupWatch()
        self.heartbeat = config.heartbeat
        self._timeout = config.timeout
        self._max_timeout = config.max_timeout
        self._stream_timeout = config.stream_timeout
        self._max_streams = config.max_streams
        self.max_upload = config.max_upload
        self.streams = 0
        """How many are under way."""
        self._tracer = tracer
        self._loop = asyncio.get_running_loop()

    def deadline(self, timeout: float | None) -> float | None:
        """Return the deadline of a call that starts now, for what its client is ready to wait."""
        seconds = self._timeout if timeout is None else min(timeout, self._max_timeout)
        return None if seconds is None else self._loop.time() + seconds

    def stream_deadline(self, timeout: float | None) -> float | None:
        """Return the deadline of a stream that begins now: it has none unless somebody wants one."""
        limit = self._stream_timeout
        if timeout is None or (limit is not None and limit < timeout):
            timeout = limit
        return None if timeout is None else self._loop.time() + timeout

    @asynccontextmanager
    async def open(self, call: Call) -> AsyncIterator[OpenCall]:
        """Make a call whose messages are read and written one by one, within the block.

        Raises ``StatusError`` when too many of them are under way.
        """
        with self.stream_slot():
            async with OpenCall(self.invoke, call) as opened:
                yield opened

    @contextmanager
    def stream_slot(self) -> Iterator[None]:
        """Count one more stream within the block. Raises ``StatusError`` when too many are under way."""
        if self.streams >= self._max_streams:
            raise StatusError(StatusCode.UNAVAILABLE, "the gateway carries as many streams as it may: try again")
        self.streams += 1
        try:
            yield
        finally:
            self.streams -= 1

    async def serve(  # noqa: PLR0915 - straight through: each call of a function costs
        self, route: UnaryRoute, scope: Scope, receive: Receive, send: Send, segments: list[bytes]
    ) -> None:
        """Answer one request."""
        started = perf_counter()
        tracer = self._tracer
        span = None if tracer is None else tracer.start(scope["method"], route.template.source, scope)
        request_id, status = b"", 500
        failure: BaseException | None = None
        call: Call | None = None
        try:
            head = self.headers.read(scope["headers"])
            request_id = head.request_id or new_request_id()
            codings = head.codings
            if codings is not None and codings.content:
                receive = decompressing(head, codings, receive, self.bodies)
            other_way = route.other_way(head, segments)
            if other_way is not None:
                send = compressing(head, send, self._compress_from)
                status = await watched(other_way, scope, receive, send, request_id)
                return
            body = await self.bodies.read(receive, head.content_length) if route.has_body else b""
            request, answer = route.prepare(head, body, segments, scope["query_string"])
            call = Call(
                route.info,
                request,
                metadata=() if head.metadata is None else tuple(head.metadata),
                deadline=self.deadline(head.timeout),
            )
            self.watch.add(call, receive)
            try:
                await self.invoke(call)
            finally:
                self.watch.remove(call)
            content_type, body = answer(call.response)
            headers = _headers(call, content_type, len(body), request_id)
            status = 200
            if codings is not None and codings.accept and len(body) >= self._compress_from:
                send = CompressingSend(send, codings.accept, self._compress_from)
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        except ClientGone:
            status = CLIENT_GONE
        except Exception as error:  # noqa: BLE001 - answered: what is meant for clients as it is, a bug of ours with 500
            request_id = request_id or new_request_id()
            if isinstance(error, HttpError | StatusError | ResponseError):
                status = await self._answer_error(route, error, call, request_id, send, scope)
            else:
                failure = error
                status = await self._answer_bug(route, error, request_id, send, scope, begun=status == 200)
        except BaseException as error:  # the task is being cancelled: for the span, then onwards
            failure = error
            raise
        finally:
            if self.bodies.held_by:
                self.bodies.release()
            seconds = perf_counter() - started
            route.numbers.record(status, seconds)
            if span is not None:
                span.end(status, failure)

    async def _answer_error(
        self,
        route: UnaryRoute,
        error: HttpError | StatusError | ResponseError,
        call: Call | None,
        request_id: bytes,
        send: Send,
        scope: Scope,
    ) -> int:
        if isinstance(error, ResponseError):
            logger.warning("%s: %s (request %s)", route.info.full_name, error, request_id.decode())
        elif isinstance(error, HttpError) and not error.plain:
            # Protocols whose errors are not told by the HTTP status.
            if kind := grpc_kind(scope["headers"]):
                trailers = [*grpc_status(error.code, error.message, error.details), *error.headers]
                await send_grpc_error(scope, send, kind, [(b"x-request-id", request_id)], trailers)
                return error.status
            if route.template.source == route.info.path and (kind := connect_stream_type(scope["headers"])):
                head, body = end_of_stream(kind, route.error(error.code, error.message, error.details))
                await send_response(send, 200, [*head, *error.headers], request_id, body)
                return error.status
        return await answer_error(route, error, call, request_id, send)

    async def _answer_bug(
        self, route: UnaryRoute, error: Exception, request_id: bytes, send: Send, scope: Scope, *, begun: bool
    ) -> int:
        logger.error("%s: request %s failed", route.info.full_name, request_id.decode(), exc_info=error)
        if begun or isinstance(error, CutShortError):
            raise error  # The server cuts the connection: the response cannot be ended any more.
        message = internal_error(request_id)
        if kind := grpc_kind(scope["headers"]):
            trailers = grpc_status(StatusCode.INTERNAL, message, ())
            await send_grpc_error(scope, send, kind, [(b"x-request-id", request_id)], trailers)
        else:
            await send_error(send, 500, route.error(StatusCode.INTERNAL, message, ()), request_id)
        return 500

    async def close(self) -> None:
        """Let go of what waits for clients."""
        self.bodies.close()
        await self.watch.close()


def _headers(call: Call, content_type: bytes, length: int, request_id: bytes) -> list[tuple[bytes, bytes]]:
    headers = [
        (b"content-type", content_type),
        (b"content-length", b"%d" % length),
        (b"x-request-id", request_id),
    ]
    if call.initial_metadata or call.trailing_metadata:
        headers += answer_headers(call.initial_metadata, call.trailing_metadata)
    return headers


async def answer_error(
    route: UnaryRoute,
    error: HttpError | StatusError | ResponseError,
    call: Call | None,
    request_id: bytes,
    send: Send,
) -> int:
    """Answer what went wrong, in the form of the route's front-end. Returns the HTTP status."""
    headers: list[tuple[bytes, bytes]] = []
    details: Sequence[GoogleAny] = ()
    if isinstance(error, HttpError):
        code, message, status = error.code, error.message, error.status
        details = error.details
        headers = error.headers
        if error.plain:
            await send_error(send, status, f"{message}\n".encode(), request_id, headers, content_type=TEXT)
            return status
    elif isinstance(error, ResponseError):
        code, message, status = StatusCode.INTERNAL, str(error), 500
    else:
        code, message = status_of(error)
        status = HTTP_STATUS[code]
        if call is not None:
            details = details_of(call.trailing_metadata)
            headers = answer_headers(call.initial_metadata, call.trailing_metadata)
    await send_error(send, status, route.error(code, message, details), request_id, headers)
    return status


def internal_error(request_id: bytes) -> str:
    """Return all that a client learns of a failure of ours."""
    return f"internal error; the gateway's log tells more under request id {request_id.decode()}"


async def send_error(
    send: Send,
    status: int,
    body: bytes,
    request_id: bytes,
    headers: Sequence[tuple[bytes, bytes]] = (),
    *,
    content_type: bytes = JSON,
) -> None:
    """Send an error: JSON, if nothing else is said."""
    head = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *headers]
    await send_response(send, status, head, request_id, body)


async def send_response(
    send: Send, status: int, headers: list[tuple[bytes, bytes]], request_id: bytes, body: bytes = b""
) -> None:
    """Send a whole response."""
    if request_id:
        headers.append((b"x-request-id", request_id))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class CutShortError(Exception):
    """Another application failed after it had begun to answer: there is nothing left but to cut the connection."""


async def watched(app: AsgiApp, scope: Scope, receive: Receive, send: Send, request_id: bytes) -> int:
    """Run another application for a request: its response gets the request's id. Returns its status.

    Raises ``CutShortError``, or what the application raised before it began to answer.
    """
    status = CLIENT_GONE
    complete = False

    async def forward(message: dict[str, Any]) -> None:
        nonlocal status, complete
        if message["type"] == "http.response.start":
            status = message["status"]
            message = {**message, "headers": [*message.get("headers", ()), (b"x-request-id", request_id)]}
        elif not message.get("more_body") and not message.get("more_trailers"):
            complete = True
        await send(message)

    try:
        await app(scope, receive, forward)
    except asyncio.CancelledError:
        if not complete:
            raise
        # The server stops, and the client has been told.
    except Exception as error:
        if status == CLIENT_GONE:
            raise
        if not complete:
            raise CutShortError(f"after it had begun to answer with {status}") from error
        logger.exception("request %s was answered with %d", request_id.decode(), status)
    return status
