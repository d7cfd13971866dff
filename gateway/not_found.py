"""What to tell a client whose request leads nowhere: what is wrong with it, and what would be right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gateway.routes import RouteTable

_MAX_SHOWN = 200
"""Characters of a client's own that it gets to see again."""


def describe(
    method: str, path: bytes, allowed: Sequence[str], table: RouteTable[Any], knows: Callable[[str], bool]
) -> str:
    """Return why a method and a raw path lead nowhere.

    ``allowed`` are the methods that the path takes. ``knows`` tells whether a service is on the mesh.
    """
    shown = path[:_MAX_SHOWN].decode("utf-8", "replace")
    if allowed:
        return f"{shown} does not take {method[:20]}: it takes {', '.join(allowed)}"
    if path.endswith(b"/") and table.methods_for(path.rstrip(b"/")):
        return f"nothing is served at {shown}: leave out the slash at the end"
    segments = shown[1:].split("/")
    if len(segments) == 2 and "." in segments[0] and segments[1]:
        service, name = segments
        if knows(service):
            return f"nothing is served at {shown}: {service} has no method {name}"
        return f"nothing is served at {shown}: no service {service} has been seen on the mesh"
    return f"nothing is served at {shown}"
