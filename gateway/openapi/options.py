"""How the API is presented."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class DocsOptions:
    """What ``/openapi.json`` and ``/docs`` say of the API as a whole."""

    serve: bool = True
    """Whoever may connect learns the schemas of all services. What they may call is another matter."""

    title: str = "API"

    version: str = "1"
    """The version of the API: services have their own, this one stands for all of them together."""

    description: str = ""
    """Shown above all else; Markdown."""
