"""What one hostile connection sends, and what the rest of the program has to know about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

SMUGGLED = b"smuggled"
"""In every request that is hidden in another one's body: no back-end may ever see it."""

FORGED = b"f0rged"
"""In every header value that poses as the bus's or the protocol's own: no back-end may see it under such a name."""


@dataclass(slots=True)
class Attack:
    """``pieces`` are sent one after the other; ``inputs`` is how many requests or frames they are."""

    kind: str
    pieces: list[bytes]
    inputs: int = 1
    http2: bool = False
    may_time_out: bool = False
    """It asks for a deadline of its own, so 504 is an answer."""
    hangs_up: bool = False
    """The client goes away when it has sent everything, without reading an answer."""
    end: bool = False
    """The client says at the end that nothing more comes."""
    owned: bool = field(default=True)
    """Each answer with an id of ours must have one of this connection."""


Make = Callable[[Random, str], Attack]
"""Makes an attack; the text is in every request id of the connection."""

NASTY = (
    b"\r\n", b"\n", b"\r", b"\0", b"\t", b" ", b"\x0b", b"\x0c", b"\x7f", b"\x80", b"\xff", b"\xc0\xaf",
    b"\xed\xa0\x80", b"\xe2\x80\xa8", b"\xc3\xa9", b"%00", b"%0d%0a", b"%", b"%zz", b"%c0%af", b"%ed%a0%80", b"%2f",
    b"%2e%2e", b"..", b"//", b":", b";", b",", b'"', b"\\", b"{", b"}", b"[", b"]", b"$", b"*", b">", b"?", b"#",
    b"=", b"&", b"+", b"-1", b"0x10",
)  # fmt: skip

FORGERIES = (
    b"\r\nPUB f0rged.subject 3\r\nabc\r\n",
    b"\nPUB f0rged.subject 3\nabc\n",
    b"%0d%0aPUB f0rged.subject 3%0d%0aabc%0d%0a",
    b"\r\nHPUB f0rged.subject 12 15\r\nNATS/1.0\r\n\r\nabc\r\n",
    b"\r\nSUB > 1\r\n",
    b"\r\nNats-Msg-Id: f0rged",
    b"f0rged\r\ngrpc-status: 0",
    b"f0rged\0",
    b"f0rged.>",
)


def nasty(rng: Random) -> bytes:
    """Bytes that somebody may take for something else."""
    return rng.choice(FORGERIES) if rng.random() < 0.1 else rng.choice(NASTY) * rng.choice((1, 1, 1, 2, 3, 50))


def mangled(rng: Random, data: bytes, times: int | None = None) -> bytes:
    """Bytes with some of them changed, dropped, doubled, or something nasty between them."""
    for _ in range(rng.choice((1, 1, 2, 3, 8)) if times is None else times):
        at = rng.randrange(len(data) + 1)
        to = min(len(data), at + rng.choice((0, 1, 1, 2, 4, 16)))
        how = rng.randrange(6)
        if how == 0:
            data = data[:at] + nasty(rng) + data[at:]
        elif how == 1:
            data = data[:at] + data[to:]
        elif how == 2:
            data = data[:to] + data[at:to] + data[to:]
        elif how == 3:
            data = data[:at] + rng.randbytes(to - at) + data[to:]
        elif how == 4:
            data = data[:at] + nasty(rng) + data[to:]
        elif to > at:
            data = data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
    return data


def cut(rng: Random, data: bytes) -> list[bytes]:
    """The same bytes, perhaps in pieces."""
    if rng.random() < 0.7 or len(data) < 2:
        return [data]
    cuts = sorted(rng.randrange(len(data)) for _ in range(rng.randrange(1, 4)))
    return [data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True) if end > begin]
