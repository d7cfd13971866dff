"""Clients that hang up while their call is under way: the call is cancelled, so its handler stops.

ASGI tells of a disconnect only to those who wait for it, and a waiting task for each request would cost more than
most calls do. So only calls that last are watched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from gateway.aging import Aging
from gateway.asgi import Receive
from rpc import Call, StatusCode

INTERVAL = 0.05
"""Seconds; a call is watched when it is once to twice as old."""

ON_DISCONNECT: Final = "natsmesh.on_disconnect"
"""Where our own server puts, in a scope's ``state``, a function that takes what is to be called when the client hangs
up (None: nothing any more). Whoever does not read the request just now hears of it by no other way."""


class HangupWatch:
    """The calls under way whose clients may hang up. One per event loop."""

    __slots__ = ("_unwatched", "_watchers")

    def __init__(self) -> None:
        self._unwatched: Aging[Call, Receive] = Aging(INTERVAL, self._start)
        self._watchers: dict[Call, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        """How many calls are under way."""
        return len(self._unwatched) + len(self._watchers)

    def add(self, call: Call, receive: Receive) -> None:
        """Begin to care about a call. Its request body has been read, so ``receive`` waits for nothing but the end."""
        self._unwatched.add(call, receive)

    def remove(self, call: Call) -> None:
        """The call has ended."""
        if not self._unwatched.remove(call):
            watcher = self._watchers.pop(call, None)
            if watcher is not None:
                watcher.cancel()

    def _start(self, call: Call, receive: Receive) -> None:
        self._watchers[call] = asyncio.get_running_loop().create_task(_watch(call, receive))

    async def close(self) -> None:
        """Watch no more."""
        self._unwatched.close()
        watchers = list(self._watchers.values())
        for watcher in watchers:
            watcher.cancel()
        for watcher in watchers:
            with suppress(asyncio.CancelledError):
                await watcher


async def _watch(call: Call, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass  # A body that nobody asked for.
    call.cancel(StatusCode.CANCELLED, "the HTTP client hung up")


def on_disconnect(scope: dict[str, Any], callback: Callable[[], object] | None) -> None:
    """Have ``callback`` called when the client hangs up, if the server can tell; None calls it off."""
    register = scope.get("state", {}).get(ON_DISCONNECT)
    if register is not None:
        register(callback)
