"""Content codings: gzip, br and zstd, both ways. Each knows how to stop before too much comes out.

Sources: RFC 9110, 8.4 and 12.5.3; RFC 7932 (br); RFC 8878 and 9659 (zstd).
"""

from __future__ import annotations

import asyncio
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol

import brotli  # type: ignore[import-untyped]  # it has no types

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from gateway.errors import BadRequest, HttpError
from gateway.option_types import Bytes, ConfigError
from rpc import StatusCode

_INLINE: Final = 32 * 1024
"""Bytes that are compressed or decompressed at once, within about a millisecond; more is left to a thread."""

_LARGE: Final = 64 * 1024
"""From so many bytes on gzip, by far the slowest, is content with its fastest level."""

_MAX_PARTS: Final = 100
"""Members of gzip and frames of zstd in one body."""

_ZSTD_WINDOW_LOG: Final = 23
"""8 MiB: what a decoder of content must take, and what an encoder must not exceed (RFC 9659, 3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressionOptions:
    """What is compressed for clients. Compressed requests are always understood."""

    responses: bool = True
    """Compress answers for clients that say they take it. Turn it off where answers hold secrets together with what
    others can put into a request: over TLS their length tells too much (the attack is known as BREACH)."""

    minimum: Bytes = 1024
    """Smaller answers and messages are sent as they are."""

    def __post_init__(self) -> None:
        if self.minimum < 1:
            raise ConfigError(f"minimum {self.minimum}: must be at least 1 byte; responses = false turns it off")


class TooLargeError(Exception):
    """More comes out than is allowed."""


class MalformedError(Exception):
    """These bytes are not what they are said to be."""


class Coding(Protocol):
    """One way to compress. Both methods may run on any thread."""

    @property
    def name(self) -> str:
        """What headers call it."""

    def compress(self, data: bytes) -> bytes:
        """Return less, with luck."""

    def decompress(self, data: bytes, limit: int) -> bytes:
        """Return at most ``limit`` bytes. Raises ``TooLargeError`` as soon as there are more, ``MalformedError``."""


class Gzip:
    """RFC 1952; several members count as one."""

    name = "gzip"

    def compress(self, data: bytes) -> bytes:
        """Return one member."""
        return zlib.compress(data, 5 if len(data) < _LARGE else 1, wbits=31)

    def decompress(self, data: bytes, limit: int) -> bytes:
        """Return what all members hold."""
        return _in_parts(data, limit, lambda: zlib.decompressobj(wbits=31), zlib.error)


class Brotli:
    """RFC 7932."""

    name = "br"

    def compress(self, data: bytes) -> bytes:
        """Return one stream."""
        # 4 is about as fast as gzip and better; the levels that make br famous are for files that are compressed once.
        compressed: bytes = brotli.compress(data, quality=4)
        return compressed

    def decompress(self, data: bytes, limit: int) -> bytes:
        """Return what a stream holds."""
        decoder = brotli.Decompressor()
        parts: list[bytes] = []
        try:
            while True:
                part = decoder.process(data, output_buffer_limit=limit + 1)
                limit = _within(limit, part)
                parts.append(part)
                if decoder.is_finished():
                    break
                if not part:
                    raise MalformedError("it ends too early")
                data = b""
        except brotli.error as error:
            raise MalformedError(str(error)) from error
        return b"".join(parts)


class Zstd:
    """RFC 8878; several frames count as one. Nobody makes us set aside more than 8 MiB for a window."""

    name = "zstd"

    def compress(self, data: bytes) -> bytes:
        """Return one frame."""
        return zstd.compress(data, level=3)

    def decompress(self, data: bytes, limit: int) -> bytes:
        """Return what all frames hold."""
        options = {int(zstd.DecompressionParameter.window_log_max): _ZSTD_WINDOW_LOG}
        return _in_parts(data, limit, lambda: zstd.ZstdDecompressor(options=options), zstd.ZstdError)


class _Decoder(Protocol):
    """Decompresses one part: a gzip member, a zstd frame."""

    @property
    def eof(self) -> bool:
        """Whether its end has been reached."""

    @property
    def unused_data(self) -> bytes:
        """What follows its end."""

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Return what it holds, ``max_length`` bytes at most."""


def _in_parts(data: bytes, limit: int, decoder_of_part: Callable[[], _Decoder], failure: type[Exception]) -> bytes:
    """Return what parts that follow one another hold. Raises ``TooLargeError`` or ``MalformedError``."""
    parts: list[bytes] = []
    while data:
        _count(parts)
        decoder = decoder_of_part()
        try:
            part = decoder.decompress(data, limit + 1)
        except failure as error:
            raise MalformedError(str(error)) from error
        limit = _within(limit, part)
        parts.append(part)
        if not decoder.eof:
            raise MalformedError("it ends too early")
        data = decoder.unused_data
    return b"".join(parts)


def _count(parts: list[bytes]) -> None:
    """Raise ``MalformedError`` for more members, or frames, than anybody needs: empty ones cost a lot of work."""
    if len(parts) == _MAX_PARTS:
        raise MalformedError(f"it is put together from more than {_MAX_PARTS} parts")


def _within(limit: int, part: bytes) -> int:
    """Return how much may still come after a part."""
    if len(part) > limit:
        raise TooLargeError
    return limit - len(part)


CODINGS: Final[tuple[Coding, ...]] = (Zstd(), Brotli(), Gzip())
"""The best first, of those that a client likes alike: zstd compresses several times as fast as the others."""

_BY_NAME: Final[dict[bytes, Coding]] = {
    **{coding.name.encode(): coding for coding in CODINGS},
    b"x-gzip": CODINGS[-1],  # RFC 9110, 8.4.1.3
}

ACCEPTED: Final = b", ".join(coding.name.encode() for coding in reversed(CODINGS))
"""For ``accept-encoding`` of a response: what requests may be compressed with."""


class Codings:
    """What a request's headers say of compression."""

    __slots__ = ("accept", "content")

    def __init__(self) -> None:
        self.content = b""
        """``content-encoding``, in small letters; empty is identity."""
        self.accept = b""
        """``accept-encoding``"""

    @property
    def is_readable(self) -> bool:
        """Tell whether the body can be read, decompressed if need be."""
        return not self.content or self.content in _BY_NAME

    @property
    def of_body(self) -> Coding | None:
        """How the body is compressed, if it is, and if we know that way."""
        return _BY_NAME.get(self.content)


@lru_cache(maxsize=256)
def choose(accept: bytes) -> Coding | None:
    """Return what a client likes best by its ``accept-encoding``; None is identity (RFC 9110, 12.5.3)."""
    wanted: dict[bytes, float] = {}
    for item in accept.lower().split(b","):
        name, *parameters = (part.strip() for part in item.split(b";"))
        wanted[name] = _quality(parameters)
    anything = wanted.get(b"*", 0.0)
    best: Coding | None = None
    # Identity that is not named is acceptable, yet less wanted than whatever is named.
    most = wanted.get(b"identity", 0.0)
    for coding in CODINGS:
        quality = wanted.get(coding.name.encode(), anything)
        if quality > most or (quality == most > 0 and best is None):
            best, most = coding, quality
    return best


def _quality(parameters: list[bytes]) -> float:
    for parameter in parameters:
        if parameter.startswith(b"q="):
            try:
                quality = float(parameter[2:])
            except ValueError:
                return 0.0
            return quality if 0 <= quality <= 1 else 0.0
    return 1.0


async def compressed(coding: Coding, data: bytes) -> bytes:
    """Return data compressed, large ones by a thread."""
    if len(data) <= _INLINE:
        return coding.compress(data)
    return await asyncio.to_thread(coding.compress, data)


async def decompressed(coding: Coding, data: bytes, limit: int) -> bytes:
    """Return data decompressed, large ones by a thread. Raises ``HttpError``: 413 beyond the limit, 400."""
    try:
        if len(data) <= _INLINE:
            try:
                # Nobody can tell how much comes out; little does, as a rule.
                return coding.decompress(data, min(limit, 2 * _INLINE))
            except TooLargeError:
                if limit <= 2 * _INLINE:
                    raise
        return await asyncio.to_thread(coding.decompress, data, limit)
    except TooLargeError:
        raise HttpError(
            StatusCode.RESOURCE_EXHAUSTED, f"the body is larger than {limit} bytes, decompressed", status=413
        ) from None
    except MalformedError as error:
        raise BadRequest(f"the body is not {coding.name}, as its content-encoding says: {error}") from None
