"""Tasks with an owner: whoever starts one keeps it here, hears of its failure, and ends it when it closes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

logger = logging.getLogger(__name__)


class TaskSet:
    """The running tasks of one object. It belongs to the event loop that the first of them is started on."""

    __slots__ = ("_loop", "_tasks")

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        # Asked for once: Python 3.11 makes a system call of it.
        self._loop: asyncio.AbstractEventLoop | None = None

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, coroutine: Coroutine[Any, Any, Any], *, name: str | None = None) -> asyncio.Task[Any]:
        """Start a task; an exception that nobody else would see is logged."""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        task = loop.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a background task failed", exc_info=error)

    async def wait(self, timeout: float | None) -> None:
        """Wait until the tasks that run now have ended, ``timeout`` seconds at most."""
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=timeout)

    async def close(self, timeout: float = 1.0) -> None:
        """Cancel what runs and wait for its end, ``timeout`` seconds at most: what will not end is left behind."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            _, stubborn = await asyncio.wait(tasks, timeout=timeout)
            for task in stubborn:
                logger.error("a task goes on although it was cancelled: %r", task)
