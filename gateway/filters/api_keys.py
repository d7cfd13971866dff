"""API keys: a file of names and SHA-256 hashes, read anew when it changes.

    [keys.billing]
    sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    scopes = ["orders.read"]
    group = "gold"
    claims = {tenant = "acme"}
    expires = "2027-01-31T00:00:00Z"

The file holds no key, so who reads it learns none: keys are long and random, other than passwords, hence one round of
a plain hash is enough.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from gateway.config_file import load_config
from gateway.option_types import ConfigError

MAX_KEY: Final = 512
"""Bytes of a key that is looked at."""

_DIGEST = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """What is known of a key."""

    sha256: str
    """The hash of the key, in hexadecimal."""

    scopes: tuple[str, ...] = ()
    """What it may do."""

    group: str = ""
    """By which limits may differ."""

    claims: Mapping[str, str] = field(default_factory=dict)
    """What services learn of who has it, if the options pass these claims on. ``sub`` is its name by default."""

    expires: str = ""
    """When it ends, as in RFC 3339: ``2027-01-31T00:00:00Z``; a time without a zone is UTC. Empty: never."""

    def __post_init__(self) -> None:
        if not _DIGEST.fullmatch(self.sha256):
            raise ConfigError("sha256: expected 64 hexadecimal digits: printf %s KEY | sha256sum")
        if self.expires:
            try:
                datetime.fromisoformat(self.expires)
            except ValueError:
                raise ConfigError("expires: expected a time like 2027-01-31T00:00:00Z") from None

    @property
    def end(self) -> float | None:
        """Seconds since the epoch after which it is refused; None: never."""
        if not self.expires:
            return None
        end = datetime.fromisoformat(self.expires)
        return (end if end.tzinfo is not None else end.replace(tzinfo=UTC)).timestamp()


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKeyFile:
    """The content of the file."""

    keys: Mapping[str, ApiKey] = field(default_factory=dict)
    """Keys by their names."""

    def __post_init__(self) -> None:
        seen: dict[str, str] = {}
        for name, key in self.keys.items():
            other = seen.setdefault(key.sha256.lower(), name)
            if other != name:
                raise ConfigError(f"keys: {other} and {name} are one and the same key")


class ApiKeys:
    """All keys, to be found by what clients send."""

    def __init__(self, keys: Mapping[str, ApiKey]) -> None:
        self._keys = {bytes.fromhex(key.sha256): (name, key, key.end) for name, key in keys.items()}

    def find(self, sent: bytes, now: float) -> tuple[str, ApiKey] | None:
        """Return the name of a key and what is known of it; None when there is no such key, or it has expired."""
        # No comparison of what was sent takes a time that tells anything: it is hashed first, so nobody can choose
        # what is looked up, and the hashes are compared in constant time once more.
        digest = hashlib.sha256(sent).digest()
        found = self._keys.get(digest)
        if found is None:
            return None
        name, key, end = found
        if not hmac.compare_digest(digest, bytes.fromhex(key.sha256)) or (end is not None and now >= end):
            return None
        return name, key


def load_api_keys(path: Path) -> ApiKeys:
    """Read the file. Raises ``ConfigError`` with the line of each mistake, or ``OSError``."""
    return ApiKeys(load_config(path, ApiKeyFile).keys)
