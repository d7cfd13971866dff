"""Authentication: API keys and JSON Web Tokens, what may be called without, and who may call what.

Whoever is let in is described to services by metadata that clients cannot send (``headers.CLAIM_PREFIX``).
Source of the answers: RFC 6750, 3 (WWW-Authenticate, error codes); RFC 9110, 15.5.2 and 15.5.4 (401, 403).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from gateway.asgi import Receive, Scope, Send
from gateway.errors import Headers, HttpError
from gateway.filters.api_keys import MAX_KEY, ApiKeys, load_api_keys
from gateway.filters.auth_options import ALWAYS_PUBLIC, UNQUOTABLE, AuthOptions
from gateway.filters.identity import IDENTITY, ClaimHeaders, Identity, find_claim, words_of
from gateway.filters.jwt_tokens import MAX_TOKEN, TokenError, TokenVerifier, UnknownKeyError
from gateway.filters.patterns import Patterns
from gateway.filters.reloading import ReloadedFile
from rpc import StatusCode

if TYPE_CHECKING:
    from gateway.filters import Serve, ServiceRoute, Surroundings  # which has this module's options in it

_AUTHORIZATION: Final = b"authorization"

# RFC 6750, 2.1: "b64token".
_BEARER = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9._~+/-]+=*) *")
_SCHEME = re.compile(rb"bearer(?: |$)", re.IGNORECASE)


class Auth:
    """The filter."""

    def __init__(self, options: AuthOptions, surroundings: Surroundings) -> None:
        self._options = options
        self._surroundings = surroundings
        self._claims = ClaimHeaders(surroundings.server.headers, options.claims)
        self._public = Patterns((*ALWAYS_PUBLIC, *options.public))
        self._scopes = [(Patterns([pattern]), scopes) for pattern, scopes in options.scopes.items()]
        self._key_header = options.api_key_header.encode() if options.api_keys is not None else b""
        self._key_file: ReloadedFile[ApiKeys] | None = None
        if options.api_keys is not None:
            self._key_file = ReloadedFile(options.api_keys, load_api_keys, "API keys")
        self._tokens: TokenVerifier | None = None
        if options.jwt is not None:
            self._tokens = TokenVerifier(options.jwt, self._identity_of_claims)

    async def start(self) -> None:
        """Read keys, and begin to follow their changes."""
        if self._key_file is not None:
            await self._key_file.start()
        if self._tokens is not None:
            await asyncio.to_thread(_import_pyjwt)
            await self._tokens.source.start()

    async def close(self) -> None:
        """Follow no more."""
        if self._key_file is not None:
            await self._key_file.close()
        if self._tokens is not None:
            await self._tokens.source.close()

    def wrap(self, route: ServiceRoute, serve: Serve) -> Serve:
        """Put the check in front of a route."""
        needed = frozenset(scope for patterns, scopes in self._scopes if patterns.fit(route) for scope in scopes)
        if self._public.fit(route):
            return self._public_way(serve)

        async def checked(scope: Scope, receive: Receive, send: Send, segments: list[bytes]) -> None:
            try:
                identity = await self._identify(scope["headers"])
                if needed and not needed <= identity.scopes:
                    raise self._forbidden(needed)
            except HttpError as error:
                await self._surroundings.refuse(route, error, scope, receive, send, segments)
                return
            await serve(self._with_claims(scope, identity), receive, send, segments)

        return checked

    def _public_way(self, serve: Serve) -> Serve:
        """Let everybody through. Who is known is known here as well; a credential that is no good is none."""

        async def passed(scope: Scope, receive: Receive, send: Send, segments: list[bytes]) -> None:
            try:
                identity = self._identity_of(*self._credentials(scope["headers"]))
            except (HttpError, TokenError):
                identity = None
            await serve(self._with_claims(scope, identity), receive, send, segments)

        return passed

    def _with_claims(self, scope: Scope, identity: Identity | None) -> Scope:
        headers: Headers = list(scope["headers"])
        if not self._options.forward_credentials:
            headers = [each for each in headers if not self._is_credential(*each)]
        if identity is not None:
            # In the server's scope as well, for what stands around everything: the access log.
            scope[IDENTITY] = identity
            headers += identity.headers
        return {**scope, "headers": headers}

    def _is_credential(self, name: bytes, value: bytes) -> bool:
        if name == _AUTHORIZATION:
            return self._tokens is not None and _SCHEME.match(value) is not None
        return name == self._key_header

    # -------------------------------------------------------------------------------------------------- checking

    async def _identify(self, headers: Headers) -> Identity:
        """Return who calls. Raises ``HttpError`` 400 or 401, 503 while there are no keys to verify tokens with."""
        key, token = self._credentials(headers)
        try:
            try:
                identity = self._identity_of(key, token)
            except UnknownKeyError:
                assert self._tokens is not None  # noqa: S101 - who else would raise it
                await self._tokens.source.look_again()
                if not self._tokens.source.keys:
                    raise HttpError(
                        StatusCode.UNAVAILABLE,
                        "the keys of the tokens' issuer are not known yet: try again",
                        headers=[(b"retry-after", b"1")],
                    ) from None
                identity = self._identity_of(key, token)
        except TokenError as error:
            raise self._unauthenticated(str(error), "invalid_token") from None
        if identity is None:
            raise self._unauthenticated(f"a credential is needed: {self._how_to()}")
        return identity

    def _credentials(self, headers: Headers) -> tuple[bytes | None, bytes | None]:
        """Return the (API key, token) of a request, at most one of them. Raises ``HttpError`` 400."""
        keys = [value for name, value in headers if name == self._key_header]
        authorizations = [value for name, value in headers if name == _AUTHORIZATION]
        tokens = [value for value in authorizations if _SCHEME.match(value)] if self._tokens is not None else []
        if len(keys) > 1 or (tokens and len(authorizations) > 1):
            raise self._malformed("a credential is sent twice: send one")
        if keys and tokens:
            raise self._malformed("an API key and a token are sent: send one of them")
        if keys:
            if not 0 < len(keys[0]) <= MAX_KEY:
                raise self._malformed(f"an API key has 1 to {MAX_KEY} characters")
            return keys[0], None
        if not tokens:
            return None, None
        if len(tokens[0]) > MAX_TOKEN:
            raise self._malformed(f"a token has at most {MAX_TOKEN} characters")
        match = _BEARER.fullmatch(tokens[0])
        if match is None:
            raise self._malformed("the header authorization is malformed: send 'Bearer', a space and the token")
        return None, match[1]

    def _identity_of(self, key: bytes | None, token: bytes | None) -> Identity | None:
        """Return whose credential it is, None without one. Raises ``TokenError``, ``HttpError`` 401."""
        if token is not None:
            assert self._tokens is not None  # noqa: S101 - tokens are not looked for otherwise
            return self._tokens.verify(token)
        if key is None:
            return None
        assert self._key_file is not None  # noqa: S101 - keys are not looked for otherwise
        found = self._key_file.value.find(key, time.time())
        if found is None:
            raise self._unauthenticated("the API key is not known, or has expired", "invalid_token")
        name, known = found
        claims = {"sub": name, **known.claims}
        return Identity("api-key", name, known.group, frozenset(known.scopes), self._claims.of("api-key", claims))

    def _identity_of_claims(self, claims: Mapping[str, Any]) -> Identity:
        options = self._options.jwt
        assert options is not None  # noqa: S101 - there are no tokens otherwise
        scopes = [words_of(find_claim(claims, name)) for name in options.scope_claims]
        group = find_claim(claims, options.group_claim) if options.group_claim else ""
        return Identity(
            "jwt",
            str(find_claim(claims, options.subject_claim)),
            group if isinstance(group, str) else "",
            frozenset[str]().union(*scopes),
            self._claims.of("jwt", claims),
        )

    # --------------------------------------------------------------------------------------------------- answers

    def _how_to(self) -> str:
        ways = []
        if self._options.api_keys is not None:
            ways.append(f"an API key in the header {self._options.api_key_header}")
        if self._options.jwt is not None:
            ways.append("a token as 'authorization: Bearer ...'")
        return "send " + " or ".join(ways)

    def _challenge(self, error: str = "", description: str = "", scope: str = "") -> Headers:
        """Return the WWW-Authenticate headers; without an error for those who sent nothing (RFC 6750, 3.1)."""
        said = f'realm="{self._options.realm}"'
        for name, value in (("error", error), ("error_description", description), ("scope", scope)):
            if value:
                said += f', {name}="{UNQUOTABLE.sub("_", value)}"'
        headers: Headers = []
        if self._options.jwt is not None:
            headers.append((b"www-authenticate", b"Bearer " + said.encode("ascii")))
        if self._options.api_keys is not None:
            # No scheme is registered for keys, but a 401 must have one (RFC 9110, 11.6.1).
            said += f', header="{self._options.api_key_header}"'
            headers.append((b"www-authenticate", b"ApiKey " + said.encode("ascii")))
        return headers

    def _unauthenticated(self, message: str, error: str = "") -> HttpError:
        headers = self._challenge(error, message if error else "")
        return HttpError(StatusCode.UNAUTHENTICATED, message, headers=headers)

    def _malformed(self, message: str) -> HttpError:
        return HttpError(StatusCode.INVALID_ARGUMENT, message, headers=self._challenge("invalid_request", message))

    def _forbidden(self, needed: frozenset[str]) -> HttpError:
        scope = " ".join(sorted(needed))
        message = f"this method needs a credential with the scope {scope}"
        return HttpError(
            StatusCode.PERMISSION_DENIED, message, headers=self._challenge("insufficient_scope", message, scope)
        )


def _import_pyjwt() -> None:
    """Import it, and what it brings, ahead of the first request."""
    import jwt.algorithms  # noqa: F401, PLC0415 - see above
