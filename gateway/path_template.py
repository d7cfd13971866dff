"""Path templates of ``google.api.http``: the grammar, and what the variables of a matched path are worth.

Source: google/api/http.proto, "Path template syntax"::

    Template = "/" Segments [ Verb ] ;
    Segments = Segment { "/" Segment } ;
    Segment  = "*" | "**" | LITERAL | Variable ;
    Variable = "{" FieldPath [ "=" Segments ] "}" ;
    FieldPath = IDENT { "." IDENT } ;
    Verb     = ":" LITERAL ;

One addition: the template ``/`` is the root path. Templates match the path as it was sent, before any
percent-decoding: ``%2F`` never separates segments.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

ONE = "*"
"""Matches one segment that is not empty."""

REST = "**"
"""Matches zero or more segments; only at the end of a path."""

MAX_TEMPLATE_LENGTH = 2048
"""Characters. Templates come from schemas that others wrote, so their size is bounded."""

_IDENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# RFC 3986, "pchar", as it stands in a path on the wire; '*' is left out, because a wildcard is a whole segment.
_LITERAL = re.compile(r"(?:[A-Za-z0-9._~!$&'()+,;=@:-]|%[0-9A-Fa-f]{2})+")
_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_SLASH_ESCAPE = re.compile(rb"%2[fF]")


MAX_SEGMENTS = 128
"""Segments of one template, for the same reason."""


class TemplateError(ValueError):
    """A path template that does not follow the grammar; the text says where and why."""


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of a template: the field it fills, and the segments it takes its value from."""

    field_path: tuple[str, ...]
    start: int
    end: int | None
    """Index after its last segment; None when it ends with ``**`` and so takes the rest of the path."""

    multi_segment: bool
    """True when it may hold more than one segment: then ``%2F`` stays as it is, to be told from a separator."""

    @property
    def name(self) -> str:
        """The field path as it is written: ``book.name``."""
        return ".".join(self.field_path)

    def value(self, segments: list[bytes]) -> str:
        """Return what the variable is worth in a matched path, decoded.

        Raises ``ValueError`` for a broken percent-escape, or escapes that are not UTF-8.
        """
        if not self.multi_segment:
            return decode_segment(segments[self.start])
        raw = b"/".join(segments[self.start : self.end])
        if b"%" not in raw:
            return raw.decode()
        # Decode around each escaped slash, and put it back as it was sent.
        slashes = _SLASH_ESCAPE.findall(raw)
        parts = _SLASH_ESCAPE.split(raw)
        text = decode_segment(parts[0])
        for slash, part in zip(slashes, parts[1:], strict=True):
            text += slash.decode() + decode_segment(part)
        return text


@dataclass(frozen=True, slots=True)
class PathTemplate:
    """A parsed template. ``segments`` are literals, ``*`` and ``**``; variables lie over them."""

    source: str
    segments: tuple[str, ...]
    variables: tuple[Variable, ...]
    verb: str
    """What follows the last colon, or an empty string."""

    @property
    def is_literal(self) -> bool:
        """True when exactly one path matches."""
        return ONE not in self.segments and REST not in self.segments

    @property
    def literal_path(self) -> str:
        """The one path that a literal template matches."""
        return "/" + "/".join(self.segments) + (f":{self.verb}" if self.verb else "")

    @property
    def shape(self) -> tuple[tuple[str, ...], str]:
        """What decides which paths match: two templates of one shape are in conflict, whatever their variables."""
        return self.segments, self.verb


def decode_segment(raw: bytes) -> str:
    """Decode one segment of a raw path, escaped slashes included. Raises ``ValueError`` as ``Variable.value`` does."""
    if b"%" not in raw:
        return raw.decode()
    if _BROKEN_ESCAPE.search(raw):
        raise ValueError("a '%' must be followed by two hexadecimal digits")
    return unquote_to_bytes(raw).decode()


def parse_template(source: str) -> PathTemplate:
    """Parse a template. Raises ``TemplateError``."""
    if len(source) > MAX_TEMPLATE_LENGTH:
        raise TemplateError(f"path template of {len(source)} characters: at most {MAX_TEMPLATE_LENGTH} are allowed")
    return _Parser(source).parse()


class _Parser:
    """Recursive descent over one template; ``position`` is the index of the next character."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.position = 0
        self.segments: list[str] = []
        self.variables: list[Variable] = []

    def parse(self) -> PathTemplate:
        if not self.source.startswith("/"):
            raise self.error("must start with '/'")
        if self.source == "/":
            return PathTemplate(self.source, ("",), (), "")
        # Only the last segment can carry a verb: in the others a colon is part of the literal.
        self.position = 1
        verb = ""
        while True:
            self.segment(inside_variable=False)
            following = self.peek()
            if following == "/":
                self.position += 1
                continue
            if following == ":":
                verb = self.verb()
            break
        if self.position != len(self.source):
            raise self.error("expected '/', ':' or the end")
        if len(self.segments) > MAX_SEGMENTS:
            raise self.error(f"more than {MAX_SEGMENTS} segments")
        if REST in self.segments[:-1]:
            raise self.error("'**' must be the last segment", at=self.source.index(REST))
        return PathTemplate(self.source, tuple(self.segments), tuple(self.variables), verb)

    def segment(self, *, inside_variable: bool) -> None:
        following = self.peek()
        if following == "{":
            if inside_variable:
                raise self.error("a variable cannot contain another variable")
            self.variable()
        elif following == ONE:
            wildcard = REST if self.source.startswith(REST, self.position) else ONE
            self.position += len(wildcard)
            self.segments.append(wildcard)
        else:
            self.segments.append(self.literal(inside_variable=inside_variable))

    def literal(self, *, inside_variable: bool) -> str:
        match = _LITERAL.match(self.source, self.position)
        if match is None:
            raise self.error("expected a literal, '*', '**' or '{' (anything special must be percent-encoded)")
        text = match[0]
        is_last = match.end() == len(self.source)
        if is_last and not inside_variable and ":" in text:
            # The verb begins at the last colon of the last segment.
            text = text[: text.rindex(":")]
            if not text:
                raise self.error("a verb must follow a segment")
        self.position += len(text)
        return text

    def variable(self) -> None:
        self.position += 1
        field_path = [self.identifier()]
        while self.peek() == ".":
            self.position += 1
            field_path.append(self.identifier())
        start = len(self.segments)
        if self.peek() == "=":
            self.position += 1
            self.segment(inside_variable=True)
            while self.peek() == "/":
                self.position += 1
                self.segment(inside_variable=True)
        else:
            self.segments.append(ONE)
        if self.peek() != "}":
            raise self.error("expected '}'")
        self.position += 1
        segments = self.segments[start:]
        open_ended = segments[-1] == REST
        variable = Variable(
            tuple(field_path),
            start,
            None if open_ended else len(self.segments),
            multi_segment=open_ended or len(segments) > 1,
        )
        if any(other.field_path == variable.field_path for other in self.variables):
            raise self.error(f"the variable {variable.name!r} stands here twice")
        self.variables.append(variable)

    def verb(self) -> str:
        self.position += 1
        match = _LITERAL.match(self.source, self.position)
        if match is None:
            raise self.error("expected a verb after ':'")
        self.position = match.end()
        return match[0]

    def identifier(self) -> str:
        match = _IDENT.match(self.source, self.position)
        if match is None:
            raise self.error("expected a field name")
        self.position = match.end()
        return match[0]

    def peek(self) -> str:
        return self.source[self.position : self.position + 1]

    def error(self, reason: str, *, at: int | None = None) -> TemplateError:
        column = (self.position if at is None else at) + 1
        return TemplateError(f"path template {self.source!r}, column {column}: {reason}")
