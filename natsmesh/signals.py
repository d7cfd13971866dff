"""Signals of processes that serve: the first one asks to end in peace, the second one ends at once."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable

from natsmesh.exits import Exit


class StopSignal:
    """Waits for SIGTERM or SIGINT (Ctrl-C)."""

    def __init__(self, at_once: Callable[[], None] | None = None) -> None:
        """``at_once()`` is called before the process ends on a second signal; it must not wait for anything."""
        self._at_once = at_once
        self._received = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)

    @property
    def is_set(self) -> bool:
        """Whether the first one has come."""
        return self._received.is_set()

    async def wait(self) -> None:
        """Wait for the first one."""
        await self._received.wait()

    def _on_signal(self, number: signal.Signals) -> None:
        if not self._received.is_set():
            self._received.set()
            return
        if self._at_once is not None:
            self._at_once()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(Exit.SIGNAL + number)
