"""What a ``.proto`` says to people: comments, deprecations, and what fields are for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from protobuf import DescField, DescFile, Registry

# Field numbers in descriptor.proto, of which the paths to comments are made.
_MESSAGES, _ENUMS, _SERVICES = 4, 5, 6
_FIELDS, _NESTED, _NESTED_ENUMS, _ONEOFS = 2, 3, 4, 8
_METHODS, _VALUES = 2, 2

# What is written into comments for others than the readers of an API are hints to linters, and remarks between
# parentheses and hyphens (https://google.aip.dev/192, "Internal comments").
_HINT = re.compile(r"^[ \t]*(?:buf:lint:ignore|protolint:|@exclude\b).*$", re.MULTILINE)
_SENTENCE = re.compile(r"(.+?[.!?])(?=\s+(?:[A-Z\"'`(]|$)|\s*\n|\s*$)", re.DOTALL)

MAX_SUMMARY = 200
"""Characters; a longer first sentence is no summary."""

MAX_COMMENT = 16_000
"""Characters of one comment that are shown; comments come from whoever serves something."""


class Notes:
    """The comments and annotations of the files that a registry was made of."""

    def __init__(self, registry: Registry) -> None:
        self._comments: dict[str, dict[str, str]] = {}
        behavior = registry.extension("google.api.field_behavior")
        self._behavior: Any = None if behavior is None else behavior.type

    def comment(self, file: DescFile, full_name: str) -> str:
        """Return the comment on what has this full name (``pkg.Message.field``, ``pkg.Enum.VALUE``), or ``""``."""
        comments = self._comments.get(file.name)
        if comments is None:
            comments = self._comments[file.name] = dict(_comments(file))
        return comments.get(full_name, "")

    def behaviors(self, field: DescField) -> frozenset[str]:
        """Return the names in ``google.api.field_behavior`` of a field: ``REQUIRED``, ``OUTPUT_ONLY`` ..."""
        options: Any = field.proto.options
        if self._behavior is None or options is None:
            return frozenset()
        return frozenset(str(value.name) for value in options[self._behavior])


def summary(comment: str) -> str:
    """Return the first sentence of a comment, on one line and without the full stop; ``""`` for a long one."""
    head = comment[: 2 * MAX_SUMMARY]
    match = _SENTENCE.match(head)
    first = " ".join((match[1] if match is not None else head.partition("\n\n")[0]).split())
    return first.removesuffix(".") if len(first) <= MAX_SUMMARY else ""


def _comments(file: DescFile) -> Iterator[tuple[str, str]]:
    proto: Any = file.proto
    if proto.source_code_info is None:
        return
    names = dict(_names(proto))
    for location in proto.source_code_info.location:
        name = names.get(tuple(location.path))
        text = _readable(location.leading_comments or location.trailing_comments)
        if name is not None and text:
            yield name, text


def _readable(text: str) -> str:
    """Return a comment without its margin and without what is not for readers."""
    lines = _HINT.sub("", _without_asides(text[:MAX_COMMENT])).splitlines()
    return "\n".join(line.removeprefix(" ").rstrip() for line in lines).strip()


def _without_asides(text: str) -> str:
    parts = []
    at = 0
    while (begin := text.find("(--", at)) >= 0 and (end := text.find("--)", begin)) >= 0:
        parts.append(text[at:begin])
        at = end + 3
    return "".join([*parts, text[at:]])


_Path = tuple[int, ...]


def _names(file: Any) -> Iterator[tuple[_Path, str]]:
    """Yield the full name of each declaration of a file by its path in ``source_code_info``."""
    package = f"{file.package}." if file.package else ""
    for index, service in enumerate(file.service):
        name = f"{package}{service.name}"
        yield (_SERVICES, index), name
        yield from _members((_SERVICES, index), name, _METHODS, service.method)
    for index, enum in enumerate(file.enum_type):
        yield from _enum((_ENUMS, index), f"{package}{enum.name}", enum)
    pending: list[tuple[_Path, str, Any]] = [
        ((_MESSAGES, index), f"{package}{message.name}", message) for index, message in enumerate(file.message_type)
    ]
    while pending:
        path, name, message = pending.pop()
        yield path, name
        yield from _members(path, name, _FIELDS, message.field)
        yield from _members(path, name, _ONEOFS, message.oneof_decl)
        for index, enum in enumerate(message.enum_type):
            yield from _enum((*path, _NESTED_ENUMS, index), f"{name}.{enum.name}", enum)
        pending += [
            ((*path, _NESTED, index), f"{name}.{nested.name}", nested)
            for index, nested in enumerate(message.nested_type)
        ]


def _enum(path: _Path, name: str, enum: Any) -> Iterator[tuple[_Path, str]]:
    yield path, name
    yield from _members(path, name, _VALUES, enum.value)


def _members(path: _Path, name: str, number: int, members: Sequence[Any]) -> Iterator[tuple[_Path, str]]:
    for index, member in enumerate(members):
        yield (*path, number, index), f"{name}.{member.name}"
