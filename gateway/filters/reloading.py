"""Files that are read anew when they change: a mistake in the new version leaves the old one in force."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Generic, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")

INTERVAL: Final = 1.0
"""Seconds between looks at a file."""

MAX_BYTES: Final = 16 * 1024 * 1024

Stamp = tuple[int, int, int]


class ReloadedFile(Generic[T]):
    """What a file says. ``value`` is that of its last version without mistakes."""

    def __init__(self, path: Path, load: Callable[[Path], T], what: str) -> None:
        """``load`` is called on a thread; it raises ``ValueError`` or ``OSError`` for a file that cannot be used.

        ``what`` names the file in the log.
        """
        self._path = path
        self._load = load
        self._what = what
        self._stamp: Stamp | None = None
        self._task: asyncio.Task[None] | None = None
        self.value: T

    async def start(self) -> None:
        """Read it for the first time, and begin to follow it. Raises what ``load`` does."""
        self._stamp, self.value = await asyncio.to_thread(self._read)
        self._task = asyncio.create_task(self._follow(), name=f"gateway-{self._what.replace(' ', '-')}")

    async def close(self) -> None:
        """Follow it no more."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def _read(self) -> tuple[Stamp, T]:
        stamp = _stamp(self._path)
        if stamp[1] > MAX_BYTES:
            raise ValueError(f"it has {stamp[1]} bytes: at most {MAX_BYTES} are allowed")
        return stamp, self._load(self._path)

    async def _follow(self) -> None:
        refused: Stamp | None = self._stamp
        while True:
            await asyncio.sleep(INTERVAL)
            stamp: Stamp | None = None
            try:
                stamp = await asyncio.to_thread(_stamp, self._path)
                if stamp in (self._stamp, refused):
                    continue
                self._stamp, self.value = await asyncio.to_thread(self._read)
                refused = stamp
                logger.info("%s: %s was read anew", self._what, self._path)
            except (ValueError, OSError) as error:
                if stamp != refused:  # Each version is complained of but once; None is a file that is gone.
                    logger.warning("%s: %s cannot be used, what it said holds on: %s", self._what, self._path, error)
                refused = stamp
            except Exception:  # A bug of ours must not end this for ever.
                refused = stamp
                logger.exception("%s: %s cannot be used, what it said holds on", self._what, self._path)


def _stamp(path: Path) -> Stamp:
    # The inode as well: files are replaced by renaming (Kubernetes does, with links), within one tick of the clock.
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino
