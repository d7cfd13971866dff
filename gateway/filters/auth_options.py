"""The options of authentication, apart from what they switch on: a gateway without it loads no more than these."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from gateway.filters.identity import check_claim_names
from gateway.filters.patterns import Patterns, is_method_pattern
from gateway.option_types import ConfigError, Seconds

UNQUOTABLE: Final = re.compile(r"[^\x20-\x21\x23-\x5b\x5d-\x7e]")
"""What cannot be part of a quoted string in a header without escapes, nor of RFC 6750's ``error_description``."""

ALWAYS_PUBLIC: Final = ("/healthz", "/readyz", "grpc.health.v1.Health")
"""What those ask who look after the gateway, and have no credential; it is not limited either."""

_HEADER_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")

# What keys an algorithm takes: (kty, crv). Source: RFC 7518, 3.1; RFC 8037, 3.1.
ALGORITHMS: Final[Mapping[str, tuple[str, str]]] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), ("RSA", "")),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
}
"""All that verify with a public key; others would let whoever verifies a token make one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtOptions:
    """Whose tokens are accepted."""

    issuer: str
    """What ``iss`` must be."""

    audience: tuple[str, ...]
    """One of these must be in ``aud``. None at all: it is not looked at; tokens for others are accepted then."""

    jwks_url: str | None = None
    """Where the issuer publishes its keys."""

    jwks_file: Path | None = None
    """A file with the keys, instead."""

    algorithms: tuple[str, ...] = ("RS256", "ES256")
    """What tokens may be signed with; of those with public keys only."""

    leeway: Seconds = 30.0
    """How far clocks may be apart."""

    required: tuple[str, ...] = ()
    """Claims that a token must have, besides ``exp``, ``iss``, the subject, and ``aud``."""

    subject_claim: str = "sub"
    """The claim that says who calls."""

    scope_claims: tuple[str, ...] = ("scope", "scp")
    """Claims that say what the caller may do: words in a text, or an array of texts."""

    group_claim: str = ""
    """The claim by which limits may differ; empty: none."""

    refresh: Seconds = 300.0
    """How often the URL is asked for the keys."""

    def __post_init__(self) -> None:
        if not self.issuer:
            raise ConfigError("issuer: name the one whose tokens are accepted")
        if (self.jwks_url is None) == (self.jwks_file is None):
            raise ConfigError("jwks_url: give it, or jwks_file, and not both")
        if self.jwks_url is not None:
            parts = urlsplit(self.jwks_url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ConfigError("jwks_url: expected an address that begins with https:// (or http://)")
        if not self.algorithms:
            raise ConfigError("algorithms: name at least one")
        for name in self.algorithms:
            if name not in ALGORITHMS:
                raise ConfigError(
                    f"algorithms: {name[:20]!r} is not one of {', '.join(ALGORITHMS)}; with others, anybody "
                    "could make a token, or whoever verifies it"
                )
        if not 0 <= self.leeway <= 3600:
            raise ConfigError("leeway: expected 0 to 3600 seconds")
        if not self.refresh >= 1:
            raise ConfigError("refresh: expected at least 1 second")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthOptions:
    """Who may call. Without ``public`` everything needs a credential, the gateway's own paths included."""

    api_keys: Path | None = None
    """A file of API keys; see ``docs/auth.md`` for its form."""

    api_key_header: str = "x-api-key"
    """The header that clients send theirs in."""

    jwt: JwtOptions | None = None
    """Whose tokens are accepted, as ``authorization: Bearer ...``."""

    public: tuple[str, ...] = ()
    """What needs no credential: ``greeter.v1.*``, ``shop.v1.Shop/List``, ``/v1/public/**``, ``/docs/**``."""

    scopes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What callers of some methods must be allowed: patterns of methods, and all the scopes that are needed."""

    claims: Mapping[str, str] = field(default_factory=lambda: {"sub": "sub"})
    """What services learn: names of claims, and of the metadata that they pass on as, after ``x-claim-``."""

    forward_credentials: bool = False
    """Let services see the credential itself."""

    realm: str = "natsmesh"
    """What is protected, in words for people."""

    def __post_init__(self) -> None:
        if self.api_keys is None and self.jwt is None:
            raise ConfigError("api_keys: name a file, or have a section jwt: else nobody could call anything")
        if not _HEADER_NAME.fullmatch(self.api_key_header) or self.api_key_header == "authorization":
            raise ConfigError("api_key_header: expected the name of a header, in lower case, other than authorization")
        if UNQUOTABLE.search(self.realm):
            raise ConfigError("realm: expected printable ASCII without quotes")
        _checked("public", lambda: Patterns(self.public))
        _checked("scopes", lambda: Patterns(self.scopes))
        _checked("claims", lambda: check_claim_names(self.claims))
        for pattern, scopes in self.scopes.items():
            if not is_method_pattern(pattern):
                raise ConfigError("scopes: name methods, not paths: other paths may lead to the same method")
            if not scopes or not all(_SCOPE.fullmatch(scope) for scope in scopes):
                raise ConfigError(f"scopes: what {pattern[:100]} needs must be words, at least one")
        if self.api_keys is not None:
            from gateway.filters.api_keys import load_api_keys  # noqa: PLC0415 - loaded when it is used

            try:
                load_api_keys(self.api_keys)
            except OSError as error:
                raise ConfigError(f"api_keys: cannot be read: {error.strerror or error}") from None
            except ValueError as error:
                raise ConfigError(f"api_keys: {error}") from None


def _checked(option: str, check: Callable[[], object]) -> None:
    try:
        check()
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from None
