"""Numbers of jobs and events as they are handled: how long they waited, how long the handler took."""

from __future__ import annotations

import time
from typing import cast

from rpc.call import Call, Handler, Interceptor, compose
from rpc.durable.context import DeliveredCall
from rpc.durable.destinations import consumed_by
from rpc.method import MethodInfo
from rpc.stats import Stats


class DeliveryStats:
    """What one server counts besides what it counts of all its calls."""

    def __init__(self) -> None:
        self._process = Stats("process")
        self._queue = Stats("queue")

    def around(self, info: MethodInfo, handler: Handler) -> Handler:
        """Return a method's handler, counted."""
        return compose([self._of_queue(info), self._of_handler(info)], handler)

    def _of_handler(self, info: MethodInfo) -> Interceptor:
        """Return an interceptor that counts how a method's handler ends, and how long it took."""
        return self._process.interceptor({info.full_name: self._process.entry(*consumed_by(info))})

    def _of_queue(self, info: MethodInfo) -> Interceptor:
        """Return an interceptor that counts how long jobs and events (of a batch: the first) waited to be handled.

        Only what is delivered for the first time counts: what waits for its next attempt does so on purpose.
        """
        entry = self._queue.entry(*consumed_by(info))
        clock = time.time

        async def measure(call: Call, handler: Handler) -> None:
            message = cast("DeliveredCall", call).messages[0]
            if message.deliveries == 1:
                entry.record(0, max(0.0, clock() - message.published))
            await handler(call)

        return measure
