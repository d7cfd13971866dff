"""A server's default for the compression of its responses; without one, they are compressed if the requests are."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rpc.call import Call, Handler, Interceptor


def compress_responses(compress: bool) -> Interceptor:
    """Return the interceptor that compresses responses (gzip), or does not, whatever the caller does."""

    async def interceptor(call: Call, handler: Handler) -> None:
        call.compress = compress
        if call.stream is not None:
            call.stream.compress = compress
        await handler(call)

    return interceptor
