"""``rpc.LogHandler``: a handler of Python's ``logging`` that ships records over the mesh.

It never blocks the application and never raises into it: records go into a bounded backlog, and a thread of the
handler's own, with an event loop and a connection of its own, publishes them as events, ``mesh.v1.LogRecord``.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import socket
import threading
import time
import weakref
from typing import Any, Final

from mesh.v1 import log_pb2
from rpc.events.publisher import Publisher
from rpc.logs.record import RecordMaker
from rpc.logs.shipper import CAPACITY, MAX_BYTES, Backlog, Shipper
from rpc.subjects import Subjects

_RECONNECT_PAUSE: Final = 1.0
_JOIN_SECONDS: Final = 2.0

# Imported now and not when the thread needs it: what it imports can no longer be imported while the process ends.
importlib.import_module("rpc.transport.nats")

_handlers: weakref.WeakSet[LogHandler] = weakref.WeakSet()


class LogHandler(logging.Handler):
    """Ships log records over the mesh.

        logging.getLogger().addHandler(rpc.LogHandler("shop"))

    A record carries the trace of the code that logged it. What is in the backlog is kept while the broker is away,
    and sent in the end, each record at least once. When the backlog is full, records are dropped; how many is told in a
    record of its own as soon as there is room, and in ``dropped``. The end of the process waits for what is left,
    ``flush_timeout`` seconds at most.

    The thread, and the connection, are made with the first record: in a forked process anew.
    """

    def __init__(
        self,
        service: str,
        *,
        instance: str = "",
        target: str | None = None,
        prefix: str | None = None,
        level: int | str = logging.NOTSET,
        capacity: int = CAPACITY,
        max_bytes: int = MAX_BYTES,
        flush_timeout: float = 5.0,
    ) -> None:
        """Describe a handler; nothing is connected yet. Raises ``ValueError`` for a prefix that cannot be one.

        Args:
            service: Who logs (``service.name``).
            instance: Which of its processes (``service.instance.id``).
            target: A NATS URL; None is ``$NATS_URL``, or nats-server's default on this machine.
            prefix: Of the mesh; None is ``$NATSMESH_PREFIX``, or none.
            level: What is less grave is passed over.
            capacity: Records that wait at most.
            max_bytes: Bytes that they take at most, about.
            flush_timeout: Seconds that ``flush`` waits at most.
        """
        super().__init__(level)
        Subjects(prefix)  # a wrong one is told now, not to a thread
        self._target = target
        self._prefix = prefix
        self._limits = capacity, max_bytes
        self._flush_timeout = flush_timeout
        self._maker = RecordMaker(service, instance)
        self._closed = False
        self._forget()
        _handlers.add(self)

    def _forget(self) -> None:
        """Begin anew, without thread and records: those of a parent process are the parent's."""
        self._backlog = Backlog(*self._limits)
        self._shipper: Shipper | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._ident = 0
        # Reentrant: a signal handler that logs may interrupt us while we hold it.
        self._starting = threading.RLock()

    @property
    def dropped(self) -> int:
        """How many records of this process found no room so far."""
        return self._backlog.dropped

    # ------------------------------------------------------------------------------------------ in any thread

    def handle(self, record: logging.LogRecord) -> bool:
        """Take a record; see ``logging.Handler``. It takes no lock that anybody holds for longer than a moment."""
        if threading.get_ident() == self._ident:
            return False  # What we log while we ship would have to be shipped, and so on.
        passed: bool | logging.LogRecord = self.filter(record)
        if passed:
            self.emit(record if isinstance(passed, bool) else passed)  # since Python 3.12 it may be another record
        return bool(passed)

    def emit(self, record: logging.LogRecord) -> None:
        """Put a record into the backlog."""
        if self._closed:
            return
        try:
            self._backlog.put(self._maker.make(record))
            if self._thread is None or not self._thread.is_alive():
                self._start()
            if self._shipper is not None:
                self._shipper.notify()
        except RecursionError:
            raise
        except Exception:  # noqa: BLE001 - as all handlers do it: logging.raiseExceptions decides
            self.handleError(record)

    def flush(self, timeout: float | None = None) -> None:
        """Wait until the broker has stored all records so far, ``timeout`` seconds at most (``flush_timeout``)."""
        seconds = self._flush_timeout if timeout is None else timeout
        thread, loop, shipper = self._thread, self._loop, self._shipper
        if thread is None or threading.get_ident() == self._ident:
            return
        end = time.monotonic() + seconds
        while (loop is None or shipper is None) and thread.is_alive() and time.monotonic() < end:
            time.sleep(0.01)  # it has just been started
            loop, shipper = self._loop, self._shipper
        if loop is None or shipper is None:
            return
        drained = shipper.drained()
        try:
            waiting = asyncio.run_coroutine_threadsafe(drained, loop)
        except RuntimeError:  # the loop has ended
            drained.close()
            return
        with contextlib.suppress(TimeoutError):
            waiting.result(max(0.0, end - time.monotonic()))
        waiting.cancel()

    def close(self) -> None:
        """Send what is left, as ``flush`` does, and end the thread. ``logging`` does it at the end of the process."""
        if not self._closed:
            self._closed = True
            self.flush()
            loop, stop, thread = self._loop, self._stop, self._thread
            if loop is not None and stop is not None and thread is not None and thread.is_alive():
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(stop.set)
                thread.join(_JOIN_SECONDS)
        super().close()

    # -------------------------------------------------------------------------------------- in our own thread

    def _start(self) -> None:
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="natsmesh-logs", daemon=True)
                with contextlib.suppress(RuntimeError):  # the interpreter is about to end
                    self._thread.start()

    def _run(self) -> None:
        self._ident = threading.get_ident()
        try:
            with contextlib.suppress(Exception), asyncio.Runner(loop_factory=_Loop) as runner:
                runner.run(self._ship())  # If it fails, the next record starts another thread.
        finally:
            self._ident = 0  # another thread may get it

    async def _ship(self) -> None:
        self._stop = stop = asyncio.Event()
        self._shipper = shipper = Shipper(self._backlog, self._tell_dropped)
        self._loop = asyncio.get_running_loop()
        stopped = asyncio.ensure_future(stop.wait())
        while not stop.is_set():
            with contextlib.suppress(OSError):
                async with Publisher(self._target, prefix=self._prefix, trace=False) as publisher:
                    running = asyncio.ensure_future(shipper.run(lambda record, key: publisher.publish(record, id=key)))
                    await asyncio.wait([stopped, running], return_when=asyncio.FIRST_COMPLETED)
                    running.cancel()
                    await asyncio.wait([running])
            await asyncio.wait([stopped], timeout=_RECONNECT_PAUSE)

    def _tell_dropped(self, number: int) -> log_pb2.LogRecord:
        text = "%d log records were dropped: they came faster than the broker took them, or it was away for too long"
        record = logging.LogRecord(
            "rpc.LogHandler", logging.WARNING, __file__, 0, text, (number,), None, "LogHandler._tell_dropped"
        )
        record.dropped = number
        return self._maker.make(record)


class _Loop(asyncio.SelectorEventLoop):
    """A loop without a pool of threads: there are none any more while the process ends, and records are left."""

    async def getaddrinfo(  # type: ignore[override]  # its annotations vary between versions of Python
        self, host: str | None, port: str | int | None, **options: int
    ) -> list[Any]:
        """Look a name up at once: but for us, nobody waits here."""
        return socket.getaddrinfo(host, port, **options)


def _after_fork() -> None:
    for handler in list(_handlers):
        handler._forget()  # noqa: SLF001 - our own


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
