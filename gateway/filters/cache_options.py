"""The options of the response cache."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gateway.option_types import MEBIBYTE, Bytes, ConfigError, Seconds

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_CACHE_CONTROL = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOptions:
    """What clients are told to keep, and what the gateway keeps itself."""

    cache_control: str = "no-cache"
    """The header of responses whose service sends none in its metadata. ``no-cache`` lets clients keep the response and
    makes them ask whether it is still the same: then 304 is answered, without a body."""

    vary: tuple[str, ...] = ()
    """Request headers that services heed (and that pass to them): told to caches on the way."""

    ttl: Seconds = 0.0
    """How long the gateway keeps responses whose service sends no ``cache-control``; 0: only those of services that
    send ``max-age`` or ``s-maxage``."""

    max_entries: int = 10_000
    """Responses that are kept in one worker; 0 keeps none, there are entity tags only."""

    max_bytes: Bytes = 64 * MEBIBYTE
    """What they may take together, in one worker."""

    max_body: Bytes = MEBIBYTE
    """Larger bodies are not kept, and have no entity tag."""

    authorized: bool = False
    """Keep responses to requests with ``authorization`` or ``cookie`` too, each caller's by itself."""

    def __post_init__(self) -> None:
        if not _CACHE_CONTROL.fullmatch(self.cache_control):
            raise ConfigError("cache_control: expected directives like 'max-age=60', in printable ASCII")
        for name in self.vary:
            if not _TOKEN.fullmatch(name):
                raise ConfigError(f"vary: {name!r} is no name of a header")
        for option in ("ttl", "max_entries", "max_bytes", "max_body"):
            if getattr(self, option) < 0:
                raise ConfigError(f"{option} {getattr(self, option)}: must not be negative")
