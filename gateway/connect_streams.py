"""Streams for ``connectrpc``: messages go through one by one, each direction as fast as its reader takes them.

Nothing is gathered on the way: a request message is read when the back-end has room for it, a response message when
the client has taken the one before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

from connectrpc.code import Code
from connectrpc.errors import ConnectError
from connectrpc.request import RequestContext

from gateway.connect_codecs import Converter, Response
from gateway.connect_exchange import Exchange, add_headers, connect_error, current, status_code
from gateway.schema import Method
from gateway.streams import SILENCE, beginning
from gateway.unary import UnaryServer
from rpc import Call, Metadata, OpenCall, StatusError

logger = logging.getLogger(__name__)

Requests = AsyncIterator[bytes]


def server_stream(method: Method, converter: Converter, server: UnaryServer) -> Callable[[bytes, Any], Any]:
    """Return the function of a method with one request."""

    def serve(request: bytes, context: RequestContext[Any, Any]) -> AsyncIterator[Response]:
        return _relay(_call(method, request, server), None, converter, server, context)

    return serve


def request_stream(method: Method, converter: Converter, server: UnaryServer) -> Callable[[Requests, Any], Any]:
    """Return the function of a method with a stream of requests; one response is a stream of one."""

    def serve(requests: Requests, context: RequestContext[Any, Any]) -> AsyncIterator[Response]:
        return _relay(_call(method, b"", server), requests, converter, server, context)

    return serve


def _call(method: Method, request: bytes, server: UnaryServer) -> Call:
    head = current.get().head
    return Call(
        method.info,
        request,
        metadata=tuple(head.metadata or ()),
        deadline=server.stream_deadline(head.timeout),
    )


async def _relay(
    call: Call,
    requests: Requests | None,
    converter: Converter,
    server: UnaryServer,
    context: RequestContext[Any, Any],
) -> AsyncIterator[Response]:
    """Yield the responses of a call, sending ``requests`` meanwhile. Raises ``ConnectError`` when it fails."""
    exchange = current.get()
    exchange.message_taken()
    sender = _Sender(exchange, requests)
    headers: Metadata | None = None
    try:
        async with server.open(call) as opened, sender.sending(opened):
            exchange.cancel_at_disconnect(call)
            headers, message = await beginning(opened)
            add_headers(context.response_headers, headers)
            if message is SILENCE:
                exchange.skip_message()
                yield Response(b"", converter)
                message = await opened.read()
            while message is not None:
                yield Response(message, converter)
                message = await opened.read()
    except StatusError as error:
        raise sender.failure or connect_error(call, error) from error
    except ConnectError:
        raise
    except Exception as error:
        logger.exception("%s: a stream failed", call.info.full_name)
        raise ConnectError(Code.INTERNAL, "internal error") from error
    finally:
        exchange.ended()
        if headers is None:  # It has failed before there was a reason to begin.
            add_headers(context.response_headers, call.initial_metadata)
        add_headers(context.response_trailers, call.trailing_metadata)


class _Sender:
    """Sends the requests of a call while its responses are read."""

    def __init__(self, exchange: Exchange, requests: Requests | None) -> None:
        self._exchange = exchange
        self._requests = requests
        self._opened: OpenCall
        self._task: asyncio.Task[None] | None = None
        self.failure: ConnectError | None = None
        """What was wrong with the requests: for the client, it is the status of the call."""

    def sending(self, opened: OpenCall) -> Self:
        """Return a context in which the requests are sent."""
        self._opened = opened
        return self

    async def __aenter__(self) -> None:
        if self._requests is not None:
            self._task = asyncio.get_running_loop().create_task(self._send(self._requests))

    async def __aexit__(self, *_exception: object) -> None:
        if self._task is not None:
            # connectrpc closes the requests next: they must not be in use.
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _send(self, requests: Requests) -> None:
        opened = self._opened
        try:
            async for request in requests:
                self._exchange.message_taken()
                if not await opened.write(request):
                    return
            await opened.half_close()
        except ConnectError as error:
            self._fail(error)
        except Exception:
            logger.exception("%s: the requests could not be sent", opened.call.info.full_name)
            self._fail(ConnectError(Code.INTERNAL, "internal error"))

    def _fail(self, error: ConnectError) -> None:
        self.failure = error
        self._opened.cancel(status_code(error), error.message)
