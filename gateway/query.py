"""Query parameters as fields of the request.

Source: google/api/http.proto: what neither the path nor the body binds is a query parameter, nested fields by their
path. Names may be spelled as in the .proto or as in JSON; repeated fields repeat the parameter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from protobuf import DescMessage, Message

from gateway.errors import BadRequest
from gateway.fields import FieldPathError, TextField, choices, resolve, text_field

MAX_PARAMETERS = 1000

_MAX_CACHED = 512
_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


class QueryBinder:
    """The query parameters of one binding. ``bound`` are the field paths that path and body cover already."""

    def __init__(
        self, message: DescMessage, bound: tuple[tuple[str, ...], ...], *, whole_body: bool, ignore_unknown: bool
    ) -> None:
        self._message = message
        fields = [resolve(message, path) for path in bound]
        self._bound = [tuple(field.name for field in path) for path in fields]
        self._chosen = dict(choice for path in fields for choice in choices(path))
        self._whole_body = whole_body
        self._ignore_unknown = ignore_unknown
        # Only names that exist are kept, and not without bound: recursive messages have endlessly many.
        self._fields: dict[str, TextField] = {}

    def bind(self, message: Message, query: bytes) -> None:
        """Set the fields that a raw query string names. Raises ``BadRequest`` that names the parameter."""
        seen: set[tuple[str, ...]] = set()
        chosen: dict[tuple[str, ...], str] = {}
        for name, text in parse_query(query):
            field = self._fields.get(name) or self._find(name)
            if field is None:
                continue
            if not field.repeated:
                if field.path in seen:
                    raise BadRequest(
                        f"query parameter {name!r} stands twice, but the field is not repeated", field=name
                    )
                seen.add(field.path)
            for oneof, member in field.choices:
                other = chosen.setdefault(oneof, member)
                if other != member:
                    raise BadRequest(
                        f"query parameter {name!r}: only one of {other!r} and {member!r} can be set", field=name
                    )
            try:
                field.set(message, text)
            except ValueError as error:
                raise BadRequest(f"query parameter {name!r}: {error}", field=name) from error

    def _find(self, name: str) -> TextField | None:
        shown = name[:100]
        if self._whole_body:
            if self._ignore_unknown:
                return None
            raise BadRequest(f"unknown query parameter {shown!r}: this method takes its parameters in the body")
        try:
            field = text_field(self._message, tuple(name.split(".")))
        except FieldPathError as error:
            if self._ignore_unknown:
                return None
            raise BadRequest(f"unknown query parameter {shown!r}: {error}", field=shown) from error
        taken = [".".join(path) for path in self._bound if field.path[: len(path)] == path]
        taken += [other for oneof, member in field.choices if (other := self._chosen.get(oneof, member)) != member]
        if taken:
            raise BadRequest(f"query parameter {shown!r}: {taken[0]!r} is taken from the path or the body", field=shown)
        if len(self._fields) < _MAX_CACHED:
            self._fields[name] = field
        return field


def parse_query(query: bytes) -> Iterator[tuple[str, str]]:
    """Yield (name, value) of a raw query string, decoded; ``+`` is a space. Raises ``BadRequest``."""
    pairs = query.split(b"&")
    if len(pairs) > MAX_PARAMETERS:
        raise BadRequest(f"more than {MAX_PARAMETERS} query parameters, the most that is allowed")
    for pair in pairs:
        if pair:
            name, _, value = pair.partition(b"=")
            yield _decode(name), _decode(value)


def _decode(raw: bytes) -> str:
    if b"+" in raw:
        raw = raw.replace(b"+", b" ")
    if b"%" in raw:
        if _BROKEN_ESCAPE.search(raw):
            raise BadRequest("query string: a '%' must be followed by two hexadecimal digits")
        raw = unquote_to_bytes(raw)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise BadRequest("query string: the percent-escapes are not UTF-8") from None
