"""Who calls, once a credential has been checked, and what services learn of it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import quote

from gateway.errors import Headers
from gateway.headers import CLAIM_PREFIX, HeaderReader

IDENTITY: Final = "natsmesh.identity"
"""Where the ``Identity`` of a request is in its scope, if there is one."""

KIND: Final = "credential"
"""The one name under ``CLAIM_PREFIX`` that is always there: what kind of credential was checked."""

MAX_VALUES: Final = 64
"""Values of one claim that are passed on."""

Kind = Literal["api-key", "jwt"]

_PRINTABLE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")
_NAME = re.compile(r"[0-9a-z_.-]{1,100}")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls."""

    kind: Kind
    name: str
    """The subject of a token, the name of an API key."""

    group: str
    """By which limits may differ; empty for none."""

    scopes: frozenset[str]
    """What it may do."""

    headers: tuple[tuple[bytes, bytes], ...] = ()
    """What services learn of it, for the ``HeaderReader`` that it was made for."""


def find_claim(claims: Mapping[str, Any], name: str) -> Any:
    """Return a claim, None if it is absent. A name with dots that is none leads into objects: ``realm.roles``."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return found


def words_of(claim: Any) -> frozenset[str]:
    """Return the scopes in a claim: words in one text (RFC 8693, 4.2), or an array of texts."""
    if isinstance(claim, str):
        return frozenset(claim.split())
    if isinstance(claim, list | tuple):
        return frozenset(each for each in claim if isinstance(each, str))
    return frozenset()


def check_claim_names(claims: Mapping[str, str]) -> None:
    """Raise ``ValueError`` for names that metadata cannot have."""
    for claim, name in claims.items():
        if not _NAME.fullmatch(name) or name == KIND:
            raise ValueError(f"{claim[:100]!r} cannot pass on as {CLAIM_PREFIX}{name[:100]}: choose another name")


class ClaimHeaders:
    """Makes metadata of claims."""

    def __init__(self, reader: HeaderReader, claims: Mapping[str, str]) -> None:
        """``claims`` are names of claims, and the names that they pass on by, after ``CLAIM_PREFIX``."""
        self._kind = reader.sealed(CLAIM_PREFIX + KIND)
        self._names: list[tuple[str, bytes, Callable[[str], bytes]]] = [
            (claim, reader.sealed(CLAIM_PREFIX + name), _as_bytes if name.endswith("-bin") else _as_text)
            for claim, name in claims.items()
        ]

    def of(self, kind: Kind, claims: Mapping[str, Any]) -> tuple[tuple[bytes, bytes], ...]:
        """Return the headers for a request of whoever has these claims."""
        headers: Headers = [(self._kind, kind.encode())]
        for claim, name, encode in self._names:
            headers += ((name, encode(text)) for text in _texts(find_claim(claims, claim)))
        return tuple(headers)


def _texts(value: Any) -> Iterator[str]:
    """Yield what a claim is as text: an array gives a value each, an object is JSON."""
    if value is None:
        return
    values = value[:MAX_VALUES] if isinstance(value, list | tuple) else [value]
    for each in values:
        if isinstance(each, str):
            yield each
        elif each is not None:
            yield json.dumps(each, separators=(",", ":"))


def _as_text(text: str) -> bytes:
    # As gRPC does with messages: what is neither printable nor ASCII is percent-encoded, and so is the percent sign.
    return quote(text, safe=_PRINTABLE, errors="replace").encode("ascii")


def _as_bytes(text: str) -> bytes:
    return base64.b64encode(text.encode("utf-8", "replace"))
