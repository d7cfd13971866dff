"""A client that does nothing wrong while others do: is it answered, with what is its own, and how fast?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from tests.gateway.hostile.http1 import ECHO, JSON, request
from tests.gateway.processes import RawClient


class HealthyClient:
    """Calls on one connection, evenly paced. ``seconds`` are how long each took, from when it was due."""

    def __init__(self, port: int, name: str, offence: Callable[[str, str], None]) -> None:
        self._port = port
        self._name = name
        self._offence = offence
        self.seconds: list[float] = []

    async def run(self, stop: asyncio.Event, interval: float) -> None:
        """Call every ``interval`` seconds until told to stop."""
        due = time.monotonic()
        while not stop.is_set():
            async with RawClient(self._port) as client:
                calls = 0
                while not stop.is_set() and await self._call(client, due, again=calls > 0):
                    calls += 1
                    due = max(due + interval, time.monotonic() - 1)
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
                due = time.monotonic()

    async def _call(self, client: RawClient, due: float, *, again: bool) -> bool:
        """Return False when another connection is needed."""
        text = f"{self._name}-{len(self.seconds)}".encode()
        body = b'{"string":"' + text + b'"}'
        try:
            await client.send(request(b"POST", ECHO, [(b"host", b"x"), (b"x-request-id", text), *JSON], body))
            status, headers, answer = await client.answer()
        except (OSError, EOFError, TimeoutError) as error:
            if not again:  # Else it may have been closed as idle; a client just opens another one (RFC 9112, 9.3.1).
                self._offence("healthy", f"a healthy call was not answered: {error!r}")
            return False
        self.seconds.append(time.monotonic() - due)
        if status != 200 or answer != body or headers.get("x-request-id") != text.decode():
            self._offence("healthy", f"{text!r} was answered with {status} {headers} {answer!r}")
            return False
        return True


def percentile(seconds: list[float], share: float) -> float:
    """The value that this share of all is not above."""
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
