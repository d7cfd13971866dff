"""Writes lines to a file, to standard output or to a log from a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_WAITING: Final = 20_000
"""Lines that may wait to be written. More are dropped, and counted."""

_AT_ONCE: Final = 64 * 1024
"""Bytes that are written together to a file."""

_PIPE_AT_ONCE: Final = 4096
"""Bytes that a pipe takes in one piece (PIPE_BUF): the lines of several workers do not mix."""

_CLOSE_SECONDS: Final = 2.0


class LogWriter(Generic[T]):
    """Takes what is to be logged, and lets nobody wait.

    A file is opened for appending, and opened again when it has been moved away or deleted, so it can be rotated.
    """

    def __init__(self, format: Callable[[T], str], target: Path | logging.Logger | None) -> None:  # noqa: A002 - a name
        """``format`` makes the line, on the thread. Without a ``target``, lines go to standard output."""
        self._format = format
        self._file = target if isinstance(target, Path) else None
        self._logger = target if isinstance(target, logging.Logger) else None
        self._queue: queue.Queue[T | None] = queue.Queue(MAX_WAITING)
        self._lost = 0
        self._failed = False
        self._descriptor = -1
        self._thread = threading.Thread(target=self._run, name="gateway-access-log", daemon=True)
        self._thread.start()

    def put(self, entry: T) -> None:
        """Let an entry be written soon, or drop it when too many are waiting."""
        try:
            self._queue.put_nowait(entry)
        except queue.Full:
            self._lost += 1

    async def close(self) -> None:
        """Write what waits, for two seconds at the most."""
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            return
        await asyncio.to_thread(self._thread.join, _CLOSE_SECONDS)

    def _run(self) -> None:
        limit = _AT_ONCE if self._file is not None else _PIPE_AT_ONCE
        going = True
        while going:
            lines: list[bytes] = []
            size = 0
            entry = self._queue.get()
            while entry is not None:
                line = self._format(entry).encode("utf-8", "replace") + b"\n"
                if size + len(line) > limit and lines:
                    self._write(b"".join(lines))
                    lines, size = [], 0
                lines.append(line)
                size += len(line)
                if self._queue.empty():
                    break
                entry = self._queue.get()
            going = entry is not None
            if lines:
                self._write(b"".join(lines))
            if self._lost:
                lost, self._lost = self._lost, 0
                logger.warning(
                    "%d lines of the access log were dropped: they come faster than they can be written", lost
                )
        if self._descriptor >= 0 and self._file is not None:
            os.close(self._descriptor)

    def _write(self, data: bytes) -> None:
        if self._logger is not None:
            for line in data.decode().splitlines():
                self._logger.info("%s", line)
            return
        try:
            descriptor = self._open()
            while data:
                data = data[os.write(descriptor, data) :]
            self._failed = False
        except OSError as error:
            if not self._failed:  # Once, not for every line of a full disk.
                logger.error("the access log cannot be written: %s", error)  # noqa: TRY400 - no bug of ours
            self._failed = True

    def _open(self) -> int:
        if self._file is None:
            if sys.__stdout__ is None:
                raise OSError("there is no standard output")
            return sys.__stdout__.fileno()
        if self._descriptor >= 0:
            ours = os.fstat(self._descriptor)
            try:
                there = self._file.stat()
            except FileNotFoundError:
                there = None
            if there is not None and (there.st_ino, there.st_dev) == (ours.st_ino, ours.st_dev):
                return self._descriptor
            os.close(self._descriptor)
            self._descriptor = -1
        self._descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        return self._descriptor
