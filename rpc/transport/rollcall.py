"""Roll calls: how each end of the call path notices that the other one died, or lost a call.

Every end that waits asks the peers that hold its calls, twice a second: "do you still have these?" The bus itself
tells when nobody listens there any more; a living peer names the calls it does not know; one that says nothing for
some seconds counts as dead. With each call goes the number of packets that were sent in it: a lost packet is noticed
by the next one, but the last of all has no next one. The cost is two small messages a peer and second, for calls that
last; short calls never see it. docs/wire-protocol.md, "Roll calls".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

INTERVAL = 0.5
"""Seconds between two looks at the calls that are under way."""

SILENCE_LIMIT = 5.0
"""Seconds without an answer after which a peer counts as dead."""

MAX_CALLS = 10_000
"""Calls that one roll call names; when there are more, they take turns."""

_MAX_DIGITS = 10

INBOX_MARK = ".mesh."
"""Stands in the reply subjects of callers that answer roll calls; a caller without it is never asked."""


def encode_calls(calls: Iterable[str]) -> bytes:
    """Return the payload of a roll call, or of its answer: calls, one a line."""
    return "\n".join(calls).encode()


def decode_calls(data: bytes) -> list[tuple[str, int | None]]:
    """Return the (token, packets sent) of a payload; whatever it is, never an error. None: no packets are sent."""
    calls: list[tuple[str, int | None]] = []
    for line in data.decode("ascii", "replace").split("\n", MAX_CALLS)[:MAX_CALLS]:
        token, _, count = line.partition(" ")
        if token:
            calls.append((token, int(count) if count.isdecimal() and len(count) <= _MAX_DIGITS else None))
    return calls


class RollCaller:
    """Keeps the record of one end: which peers were asked, which answered."""

    def __init__(self, ask: Callable[[str, list[str]], None], *, silence_limit: float = SILENCE_LIMIT) -> None:
        """``ask(peer, calls)`` sends a roll call."""
        self._ask = ask
        self._silence_limit = silence_limit
        self._silent: dict[str, float] = {}
        """Seconds without an answer, for each peer that was asked."""
        self._last = 0.0
        self._round = 0

    def sweep(self, now: float, held: dict[str, list[str]]) -> list[str]:
        """Ask all peers that hold calls (peer -> calls); return those that have been silent for too long."""
        # When this process itself stood still, the answers are here, but were not read yet: that time does not count.
        passed = min(now - self._last, INTERVAL)
        self._last = now
        self._round += 1
        for peer in self._silent.keys() - held.keys():
            del self._silent[peer]
        dead: list[str] = []
        for peer, calls in held.items():
            silent = self._silent.get(peer)
            self._silent[peer] = silent = 0.0 if silent is None else silent + passed
            if silent >= self._silence_limit:
                del self._silent[peer]
                dead.append(peer)
            else:
                self._ask(peer, self._turn(calls))
        return dead

    def _turn(self, calls: list[str]) -> list[str]:
        if len(calls) <= MAX_CALLS:
            return calls
        turns = -(-len(calls) // MAX_CALLS)
        begin = self._round % turns * MAX_CALLS
        return calls[begin : begin + MAX_CALLS]

    def heard(self, peer: str) -> None:
        """The peer answered."""
        self._silent.pop(peer, None)
