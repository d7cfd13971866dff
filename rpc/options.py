"""The channel and server options of gRPC that mean something without HTTP/2; all others are accepted and ignored.

Source: grpc's ``grpc_types.h``, "channel arguments".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import grpc

from rpc.transport.client import DEFAULT_MAX_MESSAGE
from rpc.transport.rollcall import SILENCE_LIMIT
from rpc.wire.frames import INITIAL_WINDOW, MAX_CREDIT

MAX_RECEIVE = "grpc.max_receive_message_length"

UNLIMITED = 2**31 - 1
"""What ``-1`` means for a message size, in bytes: the size that lengths in gRPC's frames can express."""


@dataclass(frozen=True, slots=True)
class TransportOptions:
    """What a channel or server was told about its messages."""

    max_receive: int = DEFAULT_MAX_MESSAGE
    """Bytes of one received message: ``grpc.max_receive_message_length``."""
    window: int = INITIAL_WINDOW
    """Bytes of a stream that are taken in before they are read: ``natsmesh.window``."""
    silence_limit: float = SILENCE_LIMIT
    """Seconds until a silent peer counts as dead: ``grpc.keepalive_timeout_ms``."""


def read_options(options: Iterable[tuple[str, Any]] | None) -> TransportOptions:
    """Return what gRPC's list of options says. Raises ``ValueError`` for a value that cannot be."""
    given = dict(options or ())
    values: dict[str, Any] = {}
    size = given.get(MAX_RECEIVE)
    if size is not None:
        if not isinstance(size, int) or size < -1:
            raise ValueError(f"option {MAX_RECEIVE} must be a size in bytes, or -1 for no limit (got {size!r})")
        values["max_receive"] = UNLIMITED if size == -1 else size
    window = given.get("natsmesh.window")
    if window is not None:
        values["window"] = min(max(INITIAL_WINDOW, int(window)), MAX_CREDIT)
    keepalive = given.get("grpc.keepalive_timeout_ms")
    if keepalive is not None:
        values["silence_limit"] = max(1.0, int(keepalive) / 1000)
    return TransportOptions(**values)


def is_compression(compression: grpc.Compression | None) -> bool:
    """Return whether messages are to be compressed; the one algorithm of the mesh is gzip."""
    return compression not in (None, grpc.Compression.NoCompression)
