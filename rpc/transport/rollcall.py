"""Roll calls: how each end of the call path notices that the other one died, or lost a call.

Every end that waits asks the peers that hold its calls, once a second: "do you still have these?" The bus itself
tells when nobody listens there any more; a living peer names the calls it does not know; one that says nothing for
some seconds counts as dead. The cost is one small message a peer and second, for calls that last; short calls never
see it. docs/wire-protocol.md, "Roll calls".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

INTERVAL = 0.5
"""Seconds between two looks at the calls that are under way."""

SILENCE_LIMIT = 5.0
"""Seconds without an answer after which a peer counts as dead."""

MAX_CALLS = 10_000
"""Calls that one roll call names; further ones have their turn when those are over."""

INBOX_MARK = ".mesh."
"""Stands in the reply subjects of callers that answer roll calls; a caller without it is never asked."""


def encode_calls(tokens: Iterable[str]) -> bytes:
    """Return the payload of a roll call, or of its answer: tokens, one a line."""
    return "\n".join(tokens).encode()


def decode_calls(data: bytes) -> list[str]:
    """Return the tokens of a payload; whatever it is, never an error."""
    return data.decode("ascii", "replace").split("\n")[:MAX_CALLS] if data else []


class RollCaller:
    """Keeps the record of one end: which peers were asked, which answered."""

    def __init__(self, ask: Callable[[str, list[str]], None], *, silence_limit: float = SILENCE_LIMIT) -> None:
        """``ask(peer, tokens)`` sends a roll call."""
        self._ask = ask
        self._silence_limit = silence_limit
        self._waiting_since: dict[str, float] = {}

    def sweep(self, now: float, held: dict[str, list[str]]) -> list[str]:
        """Ask all peers that hold calls (peer -> tokens); return those that have been silent for too long."""
        for peer in self._waiting_since.keys() - held.keys():
            del self._waiting_since[peer]
        dead: list[str] = []
        for peer, tokens in held.items():
            since = self._waiting_since.setdefault(peer, now)
            if now - since > self._silence_limit:
                del self._waiting_since[peer]
                dead.append(peer)
            else:
                self._ask(peer, tokens[:MAX_CALLS])
        return dead

    def heard(self, peer: str) -> None:
        """The peer answered."""
        self._waiting_since.pop(peer, None)
