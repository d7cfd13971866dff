"""A batch of events, as the stream of requests that a handler reads."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from rpc.metadata import Metadata


class BatchOfEvents:
    """``rpc.call.MessageStream`` over messages that are there already."""

    def __init__(self, messages: Sequence[bytes]) -> None:
        self._messages = iter(messages)
        self.headers: asyncio.Future[Metadata] = asyncio.get_running_loop().create_future()
        self.compress = False
        self.skip_compression = False

    async def read(self) -> bytes | None:
        """Return the next event, or None after the last."""
        return next(self._messages, None)

    async def write(self, message: bytes) -> None:
        """Drop a response: there is nobody to read it."""

    def send_headers(self, metadata: Metadata) -> None:
        """Drop metadata: there is nobody to read it."""

    def half_close(self) -> None:
        """Do nothing: the batch has its end."""
