"""JSON Web Tokens: verified by PyJWT, with what must not be left to a token or its maker pinned here.

Source: RFC 7519; RFC 8725 (best current practices): the algorithm is the operator's choice, never the token's word.
"""

from __future__ import annotations

import hashlib
import json
import time
from base64 import urlsafe_b64decode
from binascii import Error as Base64Error
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from gateway.filters.auth_options import JwtOptions
from gateway.filters.identity import Identity, find_claim
from gateway.filters.jwks import KeyAddress, KeyFile, KeySet, KeySource

if TYPE_CHECKING:
    from jwt import PyJWK  # imported where it is used: a gateway without tokens does without it

MAX_TOKEN: Final = 8 * 1024
"""Bytes of a token that is looked at."""

MAX_REMEMBERED: Final = 4096
"""Tokens that are remembered to be good, so as not to verify their signatures again and again."""


def key_source(options: JwtOptions) -> KeySource:
    """Return where the keys come from."""
    if options.jwks_file is not None:
        return KeyFile(options.jwks_file, options.algorithms)
    assert options.jwks_url is not None  # noqa: S101 - the options have one or the other
    return KeyAddress(options.jwks_url, options.algorithms, options.refresh)


class TokenError(Exception):
    """A token is not accepted; the text says why, and nothing of what is in it."""


class UnknownKeyError(TokenError):
    """A token names a key that is not known, or not yet."""


class TokenVerifier:
    """Accepts tokens, or does not. It belongs to one event loop."""

    def __init__(self, options: JwtOptions, identify: Callable[[Mapping[str, Any]], Identity]) -> None:
        """``identify`` makes an identity of the claims of a good token."""
        from jwt import PyJWT  # noqa: PLC0415 - see above

        self.source = key_source(options)
        self._options = options
        self._identify = identify
        self._jwt = PyJWT(
            options={
                "require": ["exp", "iss"],
                "verify_aud": bool(options.audience),
                "enforce_minimum_key_length": True,
            }
        )
        self._required = dict.fromkeys((options.subject_claim, *options.required))
        self._remembered: OrderedDict[bytes, tuple[float, Identity]] = OrderedDict()
        self._keys: KeySet | None = None

    def verify(self, token: bytes) -> Identity:
        """Return whose token it is. Raises ``TokenError``."""
        keys = self.source.keys
        if keys is not self._keys:
            self._remembered.clear()  # What a key has signed that is no more, is no more either.
            self._keys = keys
        digest = hashlib.sha256(token).digest()
        remembered = self._remembered.get(digest)
        if remembered is not None:
            until, identity = remembered
            if time.time() < until:
                self._remembered.move_to_end(digest)
                return identity
            del self._remembered[digest]
        until, identity = self._verify(token, keys)
        self._remembered[digest] = until, identity
        if len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        return identity

    def _verify(self, token: bytes, keys: KeySet) -> tuple[float, Identity]:
        if not keys:
            raise UnknownKeyError("no key is known to verify tokens with")
        kid, algorithm = _header(token)
        if algorithm not in self._options.algorithms:
            raise TokenError("the token is signed with an algorithm that is not accepted")
        key = keys.find(kid, algorithm)
        if key is None:
            if kid is None:
                raise TokenError("the token does not name its key")
            if keys.knows(kid):
                raise TokenError("the token is signed with another algorithm than its key is for")
            raise UnknownKeyError("the token is signed with a key that is not known")
        claims = self._decode(token, key, algorithm)
        for name in self._required:
            if find_claim(claims, name) is None:
                raise TokenError(f"the token lacks the claim {name}")
        return int(claims["exp"]) + self._options.leeway, self._identify(claims)

    def _decode(self, token: bytes, key: PyJWK, algorithm: str) -> dict[str, Any]:
        """Return the claims of a token whose signature, times, audience and issuer are right. Raises ``TokenError``."""
        from jwt import PyJWTError  # noqa: PLC0415 - see above

        try:
            claims: dict[str, Any] = self._jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._options.audience or None,
                issuer=self._options.issuer,
                leeway=self._options.leeway,
            )
        except (PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            reason = _REASONS.get(type(error).__name__, "the token is malformed")
            raise TokenError(f"{reason} {error.claim}" if hasattr(error, "claim") else reason) from None
        return claims


# By the names of PyJWT's exceptions, which are imported when they are needed.
_REASONS: Final = {
    "ExpiredSignatureError": "the token has expired",
    "ImmatureSignatureError": "the token is not valid yet",
    "InvalidAudienceError": "the token is for another audience",
    "InvalidIssuerError": "the token is of another issuer",
    "MissingRequiredClaimError": "the token lacks the claim",
    "InvalidSignatureError": "the signature of the token is wrong",
}


def _header(token: bytes) -> tuple[str | None, str]:
    """Return (kid, alg) of a token, which nobody has verified yet. Raises ``TokenError``."""
    encoded, dots = token.partition(b".")[0], token.count(b".")
    try:
        header = json.loads(urlsafe_b64decode(encoded + b"=" * (-len(encoded) % 4)))
    except (ValueError, Base64Error, RecursionError):
        header = None
    if dots != 2 or not isinstance(header, dict):
        raise TokenError("the token is no JWT")
    kid, algorithm = header.get("kid"), header.get("alg")
    if not isinstance(algorithm, str) or not isinstance(kid, str | None):
        raise TokenError("the token is malformed")
    return kid, algorithm
