"""What a caller has to show, as OpenAPI says it."""

from __future__ import annotations

from typing import Any

from gateway.filters.auth_options import AuthOptions
from gateway.filters.patterns import Patterns, Routed


class Security:
    """The ways to authenticate, and which routes need none."""

    def __init__(self, auth: AuthOptions | None) -> None:
        self.schemes: dict[str, Any] = {}
        """Security schemes by name; any one of them will do. None at all: everybody may call everything."""
        self._public = Patterns(() if auth is None else auth.public)
        if auth is not None and auth.api_keys is not None:
            self.schemes["apiKey"] = {"type": "apiKey", "in": "header", "name": auth.api_key_header}
        if auth is not None and auth.jwt is not None:
            self.schemes["bearer"] = {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}

    def is_public(self, route: Routed) -> bool:
        """Tell whether a route needs nothing, where others do."""
        return bool(self.schemes) and self._public.fit(route)
