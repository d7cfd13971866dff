"""Sends attacks over many connections at once, and judges what comes of them."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from zlib import crc32

from tests.gateway.hostile import answers, bodies, coded, envelopes, http1, http2
from tests.gateway.hostile.attack import SMUGGLED, Attack, Make
from tests.gateway.hostile.target import HANG_SECONDS

ATTACKS: list[tuple[Make, int]] = [
    *http1.ATTACKS,
    *bodies.ATTACKS,
    *coded.ATTACKS,
    *envelopes.ATTACKS,
    *http2.ATTACKS,
]

_ID = re.compile(rb"(t([0-9]+)q([0-9a-f]{8}))-[0-9]+")


def tag_of(number: int) -> str:
    """What the request ids of a connection begin with; one that was mangled is no other connection's by accident."""
    return f"t{number}q{crc32(b'%d' % number):08x}"


def _is_tag(known: re.Match[bytes]) -> bool:
    return known[1].decode() == tag_of(int(known[2]))


_GOAWAY = http2.frame(http2.GOAWAY, 0, 0, bytes(8))
SHOWN = 20
"""Offences that are kept with what caused them."""

# The back-end's word, not the gateway's: binary messages travel undecoded, and this one was none.
_OF_BACKEND = b"Exception deserializing request!"


@dataclass
class Report:
    """What was sent, how it was answered, what should not have happened."""

    inputs: Counter[str] = field(default_factory=Counter)
    connections: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    offences: Counter[str] = field(default_factory=Counter)
    shown: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def offence(self, kind: str, what: str, pieces: Sequence[bytes] = ()) -> None:
        """Something happened that should not have."""
        self.offences[kind] += 1
        if len(self.shown) < SHOWN and self.offences[kind] <= 5:
            sent = b"".join(pieces)
            cause = f"\n    after {sent[:3000]!r} ({len(sent)} bytes in {len(pieces)} pieces)" if pieces else ""
            self.shown.append(f"{kind}: {what[:1000]}{cause}")

    def __str__(self) -> str:
        lines = [f"{'inputs':>10} {'connections':>12}"]
        for kind, number in self.inputs.most_common():
            lines.append(f"{number:>10,} {self.connections[kind]:>12,}  {kind}")
        lines.append(f"{self.inputs.total():>10,} {self.connections.total():>12,}  in all")
        lines.append(
            "answers: " + ", ".join(f"{status}: {number:,}" for status, number in sorted(self.statuses.items()))
        )
        lines.append(f"offences: {self.offences.total()} {dict(self.offences) or ''}")
        return "\n".join([*lines, *self.notes, *self.shown])


class Storm:
    """Hostile connections to one gateway."""

    def __init__(
        self, port: int, seed: int, report: Report, *, only: str = "", hang_seconds: float = HANG_SECONDS
    ) -> None:
        self._port = port
        self._hang_seconds = hang_seconds
        self._random = Random(seed)
        self._report = report
        self._number = 0
        chosen = [(make, weight) for make, weight in ATTACKS if only in f"{make.__module__}.{make.__name__}"]
        self._makes = [make for make, _ in chosen]
        self._weights = [weight for _, weight in chosen]
        coded.make_bombs()  # Now: it would take our own time later, and look like the gateway's.

    async def run(self, seconds: float, connections: int, pause: float = 0.0) -> None:
        """Keep so many connections busy for so long; ``pause`` seconds lie between two of each."""
        end = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for _ in range(connections):
                group.create_task(self._one_after_the_other(end, pause))

    async def _one_after_the_other(self, end: float, pause: float) -> None:
        while time.monotonic() < end:
            await self.attack()
            if pause:
                await asyncio.sleep(pause * self._random.uniform(0.5, 1.5))

    def made(self, number: int) -> list[Attack]:
        """Make the next attacks without carrying them out."""
        return [self._next()[1] for _ in range(number)]

    def _next(self) -> tuple[str, Attack]:
        self._number += 1
        tag = tag_of(self._number)
        rng = Random(self._random.random())
        (make,) = rng.choices(self._makes, self._weights)
        attack = make(rng, tag)
        if attack.http2 and rng.random() < 0.8:
            attack.pieces.append(_GOAWAY)
        return tag, attack

    async def attack(self) -> None:
        """Make one attack."""
        tag, attack = self._next()
        self._report.inputs[attack.kind] += attack.inputs
        self._report.connections[attack.kind] += 1
        try:
            async with asyncio.timeout(self._hang_seconds):
                data = await self._exchange(attack)
        except TimeoutError:
            self._report.offence("hang", f"{attack.kind}: not closed in {self._hang_seconds} s", attack.pieces)
            return
        except OSError as error:
            self._report.offence("refused", f"{attack.kind}: {error!r}", attack.pieces)
            return
        self._judge(attack, tag.encode(), data)

    async def _exchange(self, attack: Attack) -> bytes:
        """Return all that the gateway sends until it closes the connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=2**20)
        try:
            with suppress(OSError):  # It may have heard enough before it has heard all.
                for number, piece in enumerate(attack.pieces):
                    if number:
                        await asyncio.sleep(0.001)
                    writer.write(piece)
                if attack.end:
                    writer.write_eof()
            if attack.hangs_up:
                await asyncio.sleep(0.001)
                return b""
            parts: list[bytes] = []
            with suppress(ConnectionError):
                while part := await reader.read(2**18):
                    parts.append(part)
            return b"".join(parts)
        finally:
            writer.transport.abort()

    def _judge(self, attack: Attack, tag: bytes, data: bytes) -> None:
        report = self._report
        try:
            found = answers.http2(data) if data[3:4] == b"\x04" else answers.http1(data)
        except (answers.GarbledError, ValueError) as error:
            report.offence("garbled", f"{attack.kind}: {error}; it was {data[:500]!r}", attack.pieces)
            return
        if not found:
            report.statuses["closed"] += 1
        for answer in found:
            report.statuses[str(answer.status)] += 1
            self._judge_answer(attack, tag, answer)

    def _judge_answer(self, attack: Attack, tag: bytes, answer: answers.Answer) -> None:
        report = self._report
        everything = answer.body + answer.headers.get(b"grpc-message", b"")
        message = f"{attack.kind}: {answer}"
        if answer.status >= 500 and answer.status != 501 and not (answer.status == 504 and attack.may_time_out):
            if answer.status == 500 and _OF_BACKEND in everything:
                report.statuses["500 by the back-end"] += 1
            else:
                report.offence(str(answer.status), message, attack.pieces)
        elif b"internal error" in everything:
            report.offence("internal", message, attack.pieces)
        theirs = answer.headers.get(b"x-request-id", b"")
        if theirs == SMUGGLED:
            report.offence("smuggled", message, attack.pieces)
        known = _ID.fullmatch(theirs)
        if known and known[1] != tag and _is_tag(known):
            report.offence("crossed", message, attack.pieces)
