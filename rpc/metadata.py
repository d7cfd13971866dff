"""gRPC metadata: its rules, and its form as NATS headers.

Keys are lower case; values are printable ASCII, or bytes when the key ends in ``-bin`` (base64 on the wire). Keys that
start with ``grpc-``, ``mesh-`` or ``nats-`` are the protocol's own: they can be neither sent nor seen by applications.
Source: gRPC over HTTP/2, "Custom-Metadata"; docs/wire-protocol.md, "Metadata".
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias

MetadataValue: TypeAlias = str | bytes
Metadata: TypeAlias = tuple[tuple[str, MetadataValue], ...]

MAX_METADATA_BYTES = 16 * 1024
"""What names and values of one direction may add up to; gRPC's default is 8 KiB soft, 16 KiB hard."""

PAIR_COST = 32
"""Bytes that each pair counts besides, as in HTTP/2 (RFC 9113, 6.5.2): many tiny pairs are not small on the wire."""

STATUS_DETAILS_KEY = "grpc-status-details-bin"
"""The one ``grpc-`` key that applications may set: a serialized google.rpc.Status (rich errors)."""

_KEY = re.compile(r"[0-9a-z_.-]+\Z")
_RESERVED = ("grpc-", "mesh-", "nats-")
_DUPLICATE = "mesh-dup-"
_TRAILER = "mesh-trailer-"


def normalize(pairs: Iterable[tuple[str, MetadataValue]] | None) -> Metadata:
    """Check metadata given by an application and return it as a tuple of pairs.

    Raises ``ValueError`` for what gRPC forbids: upper-case or odd keys, reserved keys, text that is not printable
    ASCII (bytes are taken for it, as in grpc.aio), text under a key with ``-bin``, more than ``MAX_METADATA_BYTES``.
    """
    if not pairs:
        return ()
    result: list[tuple[str, MetadataValue]] = []
    total = 0
    for key, value in pairs:
        if not isinstance(key, str) or not _KEY.match(key):
            msg = f"metadata key {key!r} is malformed: only lower-case letters, digits, '_', '-' and '.' are allowed"
            raise ValueError(msg)
        if key.startswith(_RESERVED) and key != STATUS_DETAILS_KEY:
            msg = (
                f"metadata key {key!r} is reserved: keys that start with {', '.join(_RESERVED)} belong to the protocol"
            )
            raise ValueError(msg)
        if key.endswith("-bin"):
            if not isinstance(value, bytes):
                msg = f"metadata value of {key!r} must be bytes, because the key ends in '-bin'"
                raise ValueError(msg)
            result.append((key, value))
            total += len(key) + len(value) + PAIR_COST
            continue
        text = value.decode("latin-1") if isinstance(value, bytes) else value
        if not isinstance(text, str) or not (text.isascii() and text.isprintable()):
            msg = f"metadata value of {key!r} must be printable ASCII text (use a key that ends in '-bin' for bytes)"
            raise ValueError(msg)
        total += len(key) + len(text) + PAIR_COST
        result.append((key, text))
    if total > MAX_METADATA_BYTES:
        msg = f"metadata of {total} bytes is over the limit of {MAX_METADATA_BYTES}"
        raise ValueError(msg)
    return tuple(result)


def write_headers(headers: dict[str, str], metadata: Metadata, *, trailing: bool = False) -> None:
    """Add metadata to the headers of a message; the second and further values of a key get a numbered name."""
    for key, value in metadata:
        text = value if isinstance(value, str) else base64.b64encode(value).decode("ascii")
        name = _TRAILER + key if trailing else key
        if name in headers:
            number = 1
            while (numbered := f"{_DUPLICATE}{number}-{name}") in headers:
                number += 1
            name = numbered
        headers[name] = text


def read_headers(headers: Mapping[str, str]) -> tuple[Metadata, Metadata]:
    """Return the (initial, trailing) metadata that the headers of a message carry.

    Headers that are not metadata are passed over: the protocol's own, NATS's own, names and values that gRPC forbids.
    """
    initial: list[tuple[str, MetadataValue]] = []
    trailing: list[tuple[str, MetadataValue]] = []
    for header, value in headers.items():
        what = _KNOWN_NAMES.get(header) or _classify(header)
        name = what.key
        if not name:
            continue
        target = trailing if what.is_trailing else initial
        if what.is_binary:
            for part in value.split(","):
                try:
                    decoded = base64.b64decode(part.strip() + "=" * (-len(part.strip()) % 4), validate=True)
                except (binascii.Error, ValueError):
                    continue
                target.append((name, decoded))
        elif value.isascii() and value.isprintable():
            target.append((name, value))
    return tuple(initial), tuple(trailing)


class _Name(NamedTuple):
    """What the name of a header says; ``key`` is empty when the header is no metadata."""

    key: str
    is_trailing: bool = False
    is_binary: bool = False


_NO_METADATA = _Name("")
_KNOWN_NAMES: dict[str, _Name] = {}
"""Names that came before: few are used, again and again. Bounded, because peers choose them."""

_MAX_KNOWN_NAMES = 1000


def _classify(header: str) -> _Name:
    name = _name_of(header)
    if len(_KNOWN_NAMES) < _MAX_KNOWN_NAMES:
        _KNOWN_NAMES[header] = name
    return name


def _name_of(header: str) -> _Name:
    name = header
    if name.startswith(_DUPLICATE):
        number, _, name = name[len(_DUPLICATE) :].partition("-")
        if not number.isdigit():
            return _NO_METADATA
    is_trailing = name.startswith(_TRAILER)
    if is_trailing:
        name = name[len(_TRAILER) :]
    if not _KEY.match(name) or (name.startswith(_RESERVED) and name != STATUS_DETAILS_KEY):
        return _NO_METADATA
    return _Name(name, is_trailing, name.endswith("-bin"))
