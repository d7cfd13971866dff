"""Which routes an option is about: patterns of methods and of paths, decided when a route is built.

A pattern that begins with ``/`` is one of paths: ``*`` stands for a segment, ``**`` at the end for any number of them.
It takes in a route when every path that leads to the route fits the pattern. All others are of methods:
``greeter.v1.Greeter/SayHello``, ``greeter.v1.Greeter`` with all its methods, ``greeter.v1.*``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Protocol

from gateway.path_template import ONE, REST, PathTemplate
from rpc import MethodInfo

_METHODS = re.compile(r"[A-Za-z0-9_.*]+(?:/[A-Za-z0-9_*]+)?")
_SEGMENT = re.compile(r"(?:[A-Za-z0-9._~!$&'()+,;=@:-]|%[0-9A-Fa-f]{2})*")


class Routed(Protocol):
    """What a pattern looks at."""

    @property
    def info(self) -> MethodInfo:
        """The method; without a service, the route is one of the gateway's own paths."""

    @property
    def template(self) -> PathTemplate:
        """Which paths lead there."""


class Patterns:
    """Some patterns; a route fits if it fits one of them."""

    def __init__(self, patterns: Iterable[str]) -> None:
        """Raises ``ValueError`` for what is no pattern."""
        self._methods: list[re.Pattern[str]] = []
        self._paths: list[list[str]] = []
        for pattern in patterns:
            if pattern.startswith("/"):
                self._paths.append(_segments(pattern))
            else:
                self._methods.append(_method_pattern(pattern))

    def fit(self, route: Routed) -> bool:
        """Tell whether a route is meant."""
        name = method_name(route)
        if name and any(pattern.fullmatch(name) for pattern in self._methods):
            return True
        return any(_covers(segments, route.template) for segments in self._paths)


def method_name(route: Routed) -> str:
    """Return ``package.Service/Method``; nothing for what is no method of a service."""
    return route.info.full_name if route.info.service else ""


def is_method_pattern(pattern: str) -> bool:
    """Tell whether a pattern is one of methods: it holds for all paths that lead to them."""
    return not pattern.startswith("/")


def _method_pattern(pattern: str) -> re.Pattern[str]:
    if not _METHODS.fullmatch(pattern):
        raise ValueError(f"{pattern[:100]!r} is no pattern: write package.Service/Method, package.Service, package.*")
    text = ".*".join(re.escape(part) for part in pattern.split("*"))
    if "/" not in pattern and not pattern.endswith("*"):
        text += "/.*"
    return re.compile(text)


def _segments(pattern: str) -> list[str]:
    segments = pattern[1:].split("/")
    for number, segment in enumerate(segments):
        if segment == REST and number < len(segments) - 1:
            raise ValueError(f"{pattern[:100]!r} is no pattern: '**' can only be the last segment")
        if segment not in (ONE, REST) and not _SEGMENT.fullmatch(segment):
            raise ValueError(f"{pattern[:100]!r} is no pattern: a segment of a path is '*', '**' or as paths have it")
    return segments


def _covers(pattern: list[str], template: PathTemplate) -> bool:
    segments = list(template.segments)
    if pattern[-1] == REST:
        pattern = pattern[:-1]
        if len(segments) < len(pattern) or REST in segments[: len(pattern)]:
            return False
        if len(segments) == len(pattern) and template.verb:
            return False  # '/v1:verb' is not below '/v1'.
        segments = segments[: len(pattern)]
    else:
        if len(segments) != len(pattern) or REST in segments:
            return False
        # A verb is part of the last segment: 'x:delete' is no 'x', and nothing that a '*' was meant for.
        if template.verb:
            segments[-1] += f":{template.verb}"
            if pattern[-1] == ONE:
                return False
    return all(wanted in (ONE, found) for wanted, found in zip(pattern, segments, strict=True))
