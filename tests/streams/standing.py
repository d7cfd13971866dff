"""Calls of every kind that stand somewhere in their middle: idle, flowing, or full, with one end waiting for room."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import grpc
from grpc import aio

from tests.streams.buses import method

BLOCK = bytes(64 * 1024)


class Handlers:
    """Handlers that last until somebody ends them; the first request says how they wait."""

    def __init__(self) -> None:
        self.running = 0
        self.ended: list[str] = []
        """How each of them ended: ``cancelled`` is the only good way."""

    async def unary(self, request: bytes, context: Any) -> bytes:
        async with self._Running(self):
            await asyncio.Event().wait()
        raise AssertionError

    async def collect(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        async with self._Running(self):
            async for request in requests:
                if request == b"full":
                    await asyncio.Event().wait()
            await asyncio.Event().wait()
        raise AssertionError

    async def spread(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        async with self._Running(self):
            yield b"first"
            while True:
                if request == b"idle":
                    await asyncio.Event().wait()
                yield BLOCK if request == b"full" else b"tick"
                await asyncio.sleep(0 if request == b"full" else 0.005)

    async def talk(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async with self._Running(self):
            async for request in requests:
                yield request
                while request == b"full":
                    yield BLOCK

    class _Running:
        def __init__(self, handlers: Handlers) -> None:
            self._handlers = handlers

        async def __aenter__(self) -> None:
            self._handlers.running += 1

        async def __aexit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
            self._handlers.running -= 1
            cancelled = kind is not None and issubclass(kind, asyncio.CancelledError | GeneratorExit)
            self._handlers.ended.append("cancelled" if cancelled else f"{kind}")

    @property
    def behaviors(self) -> dict[str, Callable[..., Any]]:
        return {"unary": self.unary, "collect": self.collect, "spread": self.spread, "talk": self.talk}


class Standing:
    """One call that stands; ``code`` is there when it ended."""

    def __init__(self, name: str, call: Any, work: Awaitable[None] | None = None) -> None:
        self.name = name
        self.call = call
        self._work = None if work is None else asyncio.ensure_future(work)

    async def code(self) -> grpc.StatusCode:
        code: grpc.StatusCode = await self.call.code()
        if self._work is not None:
            with suppress(aio.AioRpcError, asyncio.CancelledError, asyncio.InvalidStateError):
                await self._work
        return code


async def _write_until_full(call: Any) -> None:
    while True:
        await call.write(BLOCK)


async def _read_for_ever(call: Any) -> None:
    while await call.read() is not aio.EOF:
        pass


async def stand(channel: aio.Channel, name: str, timeout: float | None = None) -> Standing:
    """Bring a call to where it stands: ``unary``, ``collect idle``, ``collect full``, ``spread idle``, ..."""
    kind, _, how = name.partition(" ")
    if kind == "unary":
        return Standing(name, method(channel, kind)(b"", timeout=timeout))
    if kind == "spread":
        call = method(channel, kind)(how.encode(), timeout=timeout)
        assert await call.read() == b"first"
        return Standing(name, call, _read_for_ever(call) if how == "flowing" else None)
    call = method(channel, kind)(timeout=timeout)
    await call.write(how.encode())
    if kind == "talk":
        assert await call.read() == how.encode()
    if how == "full":
        return Standing(name, call, _write_until_full(call))
    return Standing(name, call)


NAMES = (
    "unary",
    "collect idle",
    "collect full",
    "spread idle",
    "spread flowing",
    "spread full",
    "talk idle",
    "talk full",
)


async def stand_all(channel: aio.Channel) -> list[Standing]:
    """One call in each place, all of them accepted by a back-end."""
    standing = [await stand(channel, name) for name in NAMES]
    await asyncio.sleep(0.1)  # Those that are to be full have filled up, and the unary call was accepted.
    return standing
