"""The route table: which route a request's method and path lead to.

A literal path is found by one dictionary lookup, any other by walking its segments through a trie, so the cost
depends on the path and not on the number of routes. At each segment a literal beats ``*`` and ``*`` beats ``**``. A
table does not change: when the bus brings news, the next one is built and takes its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from gateway.http_rule import ANY_METHOD
from gateway.path_template import ONE, REST, PathTemplate


class Routed(Protocol):
    """What a table holds."""

    @property
    def http_method(self) -> str:
        """``GET``, ``POST`` ... or ``*``."""

    @property
    def template(self) -> PathTemplate:
        """Which paths lead there."""


R = TypeVar("R", bound=Routed)

NO_SEGMENTS: list[bytes] = []
"""The segments of a literal match: there is nothing to take from them."""


@dataclass(frozen=True, slots=True)
class Conflict(Generic[R]):
    """Two routes for the same method and paths: the first keeps serving, the second does not."""

    kept: R
    refused: R


@dataclass(slots=True)
class _Node(Generic[R]):
    """A place in the trie: what the segments so far may go on with, and the routes that end here, by verb."""

    literals: dict[bytes, _Node[R]] = field(default_factory=dict)
    one: _Node[R] | None = None
    rest: dict[bytes, R] = field(default_factory=dict)
    ends: dict[bytes, R] = field(default_factory=dict)


class _MethodTable(Generic[R]):
    """The routes of one HTTP method."""

    def __init__(self) -> None:
        self.literals: dict[bytes, R] = {}
        self.root: _Node[R] = _Node()
        self.verbs: set[bytes] = set()

    def add(self, route: R) -> R | None:
        """Add a route, or return the one that is there already."""
        template = route.template
        if template.is_literal:
            kept = self.literals.setdefault(template.literal_path.encode(), route)
            return None if kept is route else kept
        node = self.root
        for segment in template.segments:
            if segment == ONE:
                if node.one is None:
                    node.one = _Node()
                node = node.one
            elif segment != REST:
                node = node.literals.setdefault(segment.encode(), _Node())
        verb = template.verb.encode()
        if verb:
            self.verbs.add(verb)
        ends = node.rest if template.segments[-1] == REST else node.ends
        kept = ends.setdefault(verb, route)
        return None if kept is route else kept

    def find(self, path: bytes, segments: list[bytes]) -> tuple[R, list[bytes]] | None:
        """Return the route of a raw path, and its segments without the verb."""
        literal = self.literals.get(path)
        if literal is not None:
            return literal, NO_SEGMENTS
        for verb in self._verbs_of(segments[-1]):
            without = [*segments[:-1], segments[-1][: -len(verb) - 1]]
            found = _walk(self.root, without, 0, verb)
            if found is not None:
                return found, without
        found = _walk(self.root, segments, 0, b"")
        return None if found is None else (found, segments)

    def _verbs_of(self, last: bytes) -> Iterator[bytes]:
        """Yield what may be the verb of a path; only verbs that some route has, so ``/items/x:y`` can bind ``x:y``."""
        if self.verbs and b":" in last:
            after_first = last.partition(b":")[2]
            after_last = last.rpartition(b":")[2]
            if after_first in self.verbs:
                yield after_first
            if after_last != after_first and after_last in self.verbs:
                yield after_last


def _walk(node: _Node[R], segments: list[bytes], at: int, verb: bytes) -> R | None:
    """Find the best route from a node on. A node lies at one depth only, so none is visited twice."""
    if at == len(segments):
        return node.ends.get(verb) or node.rest.get(verb)
    segment = segments[at]
    child = node.literals.get(segment)
    if child is not None:
        found = _walk(child, segments, at + 1, verb)
        if found is not None:
            return found
    if node.one is not None and segment:
        found = _walk(node.one, segments, at + 1, verb)
        if found is not None:
            return found
    return node.rest.get(verb)


class RouteTable(Generic[R]):
    """All routes of a gateway. Earlier ones win where two are in conflict."""

    def __init__(self, routes: Iterable[R] = ()) -> None:
        self._methods: dict[str, _MethodTable[R]] = {}
        self.conflicts: list[Conflict[R]] = []
        self._served: list[R] = []
        for route in routes:
            table = self._methods.setdefault(route.http_method, _MethodTable())
            kept = table.add(route)
            if kept is None:
                self._served.append(route)
            else:
                self.conflicts.append(Conflict(kept, route))
        self.literals: dict[str, dict[bytes, R]] = {
            method: table.literals for method, table in self._methods.items() if method != ANY_METHOD
        }
        """The routes with literal paths, by method and raw path: the short way to most of them."""

    def all(self) -> list[R]:
        """Return all routes that are served."""
        return list(self._served)

    def find(self, method: str, path: bytes) -> tuple[R, list[bytes]] | None:
        """Return the route for a method and a raw path (without query), and the segments its variables are in."""
        segments = path[1:].split(b"/")
        for name in (method, ANY_METHOD):
            table = self._methods.get(name)
            if table is not None:
                found = table.find(path, segments)
                if found is not None:
                    return found
        return None

    def methods_for(self, path: bytes) -> list[str]:
        """Return the HTTP methods that a raw path has routes for: the ``Allow`` header."""
        segments = path[1:].split(b"/")
        return sorted(
            method
            for method, table in self._methods.items()
            if method != ANY_METHOD and table.find(path, segments) is not None
        )
