"""What HTTP says of caching: the directives of ``cache-control``, entity tags and conditions.

Sources: RFC 9110 (13.1.2, 15.4.5), RFC 9111 (3, 5.2).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final

RawHeaders = Iterable[tuple[bytes, bytes]]

MAX_AGE: Final = 86_400.0
"""Seconds that a response is kept at the most, whatever its service says."""

_DIRECTIVE = re.compile(rb'([!#$%&\'*+.^_`|~0-9A-Za-z-]+)(?:\s*=\s*(?:"([^"]*)"|([^\s,;]*)))?')
_TAG = re.compile(rb'(?:W/)?("[^"]*")')
_OF_CONTENT: Final = (b"content-length", b"content-type", b"content-encoding")


def header(headers: RawHeaders, name: bytes) -> bytes | None:
    """Return the value of a header, of several the list."""
    values = [value for key, value in headers if key == name]
    return b", ".join(values) if values else None


def directives(value: bytes | None) -> dict[bytes, bytes]:
    """Return the directives of ``cache-control``, names in small letters."""
    return {name.lower(): quoted or plain for name, quoted, plain in _DIRECTIVE.findall(value or b"")}


def lifetime(headers: RawHeaders, otherwise: float) -> float:
    """Return for how many seconds a response may be given to others who ask the same; 0: not at all.

    What the service has said counts, else ``otherwise``. Who says things in a way that is not understood, or of more
    than one mind, is not kept.
    """
    headers = list(headers)
    if header(headers, b"set-cookie") is not None or b"*" in (header(headers, b"vary") or b""):
        return 0.0
    value = header(headers, b"cache-control")
    said = directives(value)
    if said.keys() & {b"no-store", b"no-cache", b"private"}:
        return 0.0
    for name in (b"s-maxage", b"max-age"):
        if name in said:
            return min(float(said[name]), MAX_AGE) if re.fullmatch(rb"[0-9]{1,10}", said[name]) else 0.0
    return 0.0 if value is None and header(headers, b"expires") is not None else otherwise


def entity_tag(content_type: bytes, content_encoding: bytes, body: bytes) -> bytes:
    """Return a strong tag: as long as the bytes are the same, so is it, on every worker and after every restart."""
    digest = hashlib.blake2b(digest_size=12)
    for part in (content_type, b"\n", content_encoding, b"\n", body):
        digest.update(part)
    return b'"' + digest.hexdigest().encode() + b'"'


def has_current(if_none_match: bytes | None, tag: bytes) -> bool:
    """Tell whether a client has what a tag stands for already. Compared weakly, as RFC 9110 wants it here."""
    if if_none_match is None:
        return False
    if if_none_match.strip() == b"*":
        return True
    return tag.removeprefix(b"W/") in _TAG.findall(if_none_match)


def without_content(headers: RawHeaders) -> list[tuple[bytes, bytes]]:
    """Return the headers of a 200 as those of the 304 in its place."""
    return [pair for pair in headers if pair[0] not in _OF_CONTENT]
