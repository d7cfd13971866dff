"""Clients that do not take their answers: they are given up after a while, or they would be waited for for ever."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.config import Config


class PatientConfig(Config):
    """uvicorn's configuration, and how many seconds a client may take nothing of its answer."""

    def __init__(self, *arguments: Any, write_patience: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.write_patience = write_patience


class WritePatience:
    """Cuts one connection when its client takes nothing for too long. It costs nothing while all is well.

    "Nothing" is less than what uvicorn's transport buffers: some 50 kB.
    """

    __slots__ = ("_loop", "_timer", "seconds")

    def __init__(self, config: Config, loop: asyncio.AbstractEventLoop) -> None:
        assert isinstance(config, PatientConfig)  # noqa: S101 - our protocols are for our server
        self.seconds = config.write_patience
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None

    def start(self, transport: asyncio.Transport) -> None:
        """The connection is full."""
        if self._timer is None:
            self._timer = self._loop.call_later(self.seconds, transport.abort)

    def stop(self) -> None:
        """It is not full any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
