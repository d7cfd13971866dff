"""Clients that take their time: they are given up after a while, or they would be waited for for ever.

Those that do not take their answers, and those that do not finish the head of a request. Bodies are ``gateway.body``'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Final

from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl

_READING_SECONDS: Final = 0.01
"""A timer of so long, the shortest of all even so, is due when sockets have been looked at once more."""


class PatientConfig(Config):
    """uvicorn's configuration, and how long clients are waited for, in seconds; how many may be connected at once."""

    def __init__(
        self, *arguments: Any, head_patience: float, write_patience: float, max_connections: int, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self.head_patience = HeadPatience(head_patience)
        self.write_patience = write_patience
        self.max_connections = max_connections

    def get_loop_factory(self) -> Callable[[], asyncio.AbstractEventLoop] | None:
        """Return what makes event loops whose servers wait for TLS as long as for a head, not for a minute."""
        factory = super().get_loop_factory()
        if factory is None or self.ssl_context_factory is None:
            return factory

        def make() -> asyncio.AbstractEventLoop:
            loop: Any = factory()
            loop.create_server = partial(loop.create_server, ssl_handshake_timeout=self.head_patience.seconds)
            return loop  # type: ignore[no-any-return]

        return make


def patient(config: Config) -> PatientConfig:
    """Return the configuration as what it is: our protocols are for our server."""
    assert isinstance(config, PatientConfig)  # noqa: S101 - see above
    return config


class WaitsForHead:
    """A connection on which a client may begin a request and not go on; to be subclassed."""

    def awaited(self) -> object | None:
        """Return what the client's turn is in: another object for each request. None: it is not its turn."""
        raise NotImplementedError

    def give_up(self) -> None:
        """Close it: the client takes too long."""
        raise NotImplementedError


class HeadPatience:
    """Closes the connections whose clients take too long for the head of a request: ``seconds``, up to twice that.

    They are all looked at from time to time. A timer for each request would be set and cancelled for nearly all.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._timer: asyncio.TimerHandle | None = None
        self._seen: dict[WaitsForHead, object] = {}

    def watch(self, connections: Collection[object], loop: asyncio.AbstractEventLoop) -> None:
        """Have connections of a server looked at, as long as there are any."""
        if self._timer is None:
            self._timer = loop.call_later(self.seconds, self._look, connections, loop)

    def _look(self, connections: Collection[object], loop: asyncio.AbstractEventLoop) -> None:
        before, self._seen = self._seen, {}
        late: list[WaitsForHead] = []
        for connection in connections:
            if isinstance(connection, WaitsForHead) and (awaited := connection.awaited()) is not None:
                if before.get(connection) is awaited:
                    late.append(connection)
                else:
                    self._seen[connection] = awaited
        if late:
            # What came while we were busy with something else has to be read first.
            loop.call_later(_READING_SECONDS, self._give_up, late, before)
        self._timer = None
        if connections:
            self.watch(connections, loop)

    @staticmethod
    def _give_up(late: list[WaitsForHead], before: dict[WaitsForHead, object]) -> None:
        for connection in late:
            if connection.awaited() is before[connection]:
                connection.give_up()


class WritePatience:
    """Cuts one connection when its client takes nothing for too long. It costs nothing while all is well.

    "Nothing" is less than what uvicorn's transport buffers: some 50 kB.
    """

    __slots__ = ("_loop", "_timer", "seconds")

    def __init__(self, config: Config, loop: asyncio.AbstractEventLoop) -> None:
        self.seconds = patient(config).write_patience
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


class GiveAndTake(FlowControl):
    """Flow control of a connection on which reading makes us write: who takes nothing is not read from either.

    Acknowledgements of pings and settings would pile up without a bound otherwise.
    """

    def pause_writing(self) -> None:
        """The client takes less than we send."""
        super().pause_writing()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The client has taken enough of it."""
        if not self.write_paused:
            return
        super().resume_writing()
        if not self.read_paused and not self._transport.is_closing():
            self._transport.resume_reading()

    def resume_reading(self) -> None:
        """Somebody wants more of what the client sends."""
        if self.write_paused:
            self.read_paused = False  # Reading goes on with writing.
        else:
            super().resume_reading()


class TakesTurns(FlowControl):
    """Flow control of a connection on which requests are served one after the other."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self.ahead = False
        """The client has sent more than the request that is being served: it is not read from until that is answered,
        not even to see whether it is still there."""

    def resume_reading(self) -> None:
        """Somebody wants more of what the client sends."""
        if not self.ahead:
            super().resume_reading()
