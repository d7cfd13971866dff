"""The public keys that tokens are verified with: a JSON Web Key Set, from a file or from its issuer.

An issuer is asked at the start, every few minutes, and when a token names a key that is not known: that one soon, but
not again and again, whatever tokens clients make up. While it cannot be had, the set before holds on.
Source: RFC 7517; RFC 8725 (JWT best current practices), 3.1 to 3.5.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
import urllib.request
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from gateway.filters.auth_options import ALGORITHMS
from gateway.filters.reloading import ReloadedFile

if TYPE_CHECKING:
    from jwt import PyJWK  # imported where it is used: PyJWT brings OpenSSL's bindings

logger = logging.getLogger(__name__)

MAX_BYTES: Final = 512 * 1024
"""Of a key set."""

MAX_KEYS: Final = 200

MIN_RSA_BITS: Final = 2048
"""RFC 7518, 3.3."""

FETCH_SECONDS: Final = 5.0
"""What an issuer has for its answer."""

RETRY_SECONDS: Final = (1.0, 30.0)
"""The first and the longest pause after a failure."""

UNKNOWN_SECONDS: Final = 10.0
"""Between two questions for keys that are not known."""

MAX_WAITING: Final = 100
"""Requests that wait for an answer; the next ones are refused at once."""


class KeySetError(ValueError):
    """This is no key set, or none of its keys can be used."""


class KeySet:
    """Keys by id and algorithm."""

    def __init__(self, keys: Iterable[tuple[str, str, PyJWK]] = ()) -> None:
        """``keys`` are (id or nothing, algorithm, key)."""
        self._by_id: dict[tuple[str, str], PyJWK] = {}
        self._by_algorithm: dict[str, list[PyJWK]] = {}
        for kid, algorithm, key in keys:
            self._by_id.setdefault((kid, algorithm), key)
            self._by_algorithm.setdefault(algorithm, []).append(key)
        self._ids = {kid for kid, _ in self._by_id}

    def __bool__(self) -> bool:
        """False before any key is known."""
        return bool(self._by_id)

    def knows(self, kid: str) -> bool:
        """Tell whether there is a key of this id, for whatever algorithm."""
        return kid in self._ids

    def find(self, kid: str | None, algorithm: str) -> PyJWK | None:
        """Return the key for a token; without an id, the one that there is for its algorithm if there is but one."""
        if kid is not None:
            return self._by_id.get((kid, algorithm))
        keys = self._by_algorithm.get(algorithm, ())
        return keys[0] if len(keys) == 1 else None


def parse_key_set(data: bytes, algorithms: Iterable[str]) -> KeySet:
    """Return the keys of a set that some of the algorithms can use. Raises ``KeySetError``."""
    if len(data) > MAX_BYTES:
        raise KeySetError(f"a key set has at most {MAX_BYTES} bytes")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise KeySetError("a key set is JSON: this is none") from None
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list):
        raise KeySetError('a key set is an object like {"keys": [...]}')
    if len(keys) > MAX_KEYS:
        raise KeySetError(f"a key set has at most {MAX_KEYS} keys")
    found = [(kid, algorithm, key) for each in keys for kid, algorithm, key in _usable(each, tuple(algorithms))]
    if not found:
        raise KeySetError(f"none of the {len(keys)} keys is a public one for {', '.join(algorithms)}")
    return KeySet(found)


def _usable(key: Any, algorithms: tuple[str, ...]) -> Iterable[tuple[str, str, PyJWK]]:
    """Yield a key once for each algorithm that may use it; nothing for what cannot be used, as RFC 7517, 5, asks."""
    from jwt import PyJWK, PyJWTError  # noqa: PLC0415 - see above

    if not isinstance(key, dict) or key.get("use", "sig") != "sig" or "d" in key:
        return
    operations = key.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return
    kid = key.get("kid", "")
    for algorithm in algorithms:
        kind, curve = ALGORITHMS[algorithm]
        if key.get("kty") != kind or (curve and key.get("crv") != curve) or key.get("alg", algorithm) != algorithm:
            continue
        try:
            made = PyJWK(key, algorithm)
        except (PyJWTError, ValueError, TypeError, KeyError, AttributeError):
            continue
        if kind == "RSA" and made.key.key_size < MIN_RSA_BITS:
            logger.warning("an RSA key of %d bits is passed over: %d are needed", made.key.key_size, MIN_RSA_BITS)
            continue
        yield kid if isinstance(kid, str) else "", algorithm, made


class KeySource(Protocol):
    """Where keys come from."""

    @property
    def keys(self) -> KeySet:
        """Those of now."""

    async def start(self) -> None:
        """Get them for the first time, and follow their changes."""

    async def close(self) -> None:
        """Follow no more."""

    async def look_again(self) -> None:
        """A key is missed: return once that has been looked into, or at once if it was a moment ago."""


class KeyFile:
    """A key set in a file."""

    def __init__(self, path: Path, algorithms: tuple[str, ...]) -> None:
        self._file = ReloadedFile(path, lambda path: parse_key_set(path.read_bytes(), algorithms), "JWT keys")

    @property
    def keys(self) -> KeySet:
        """Those of now."""
        return self._file.value

    async def start(self) -> None:
        """Read them. Raises ``KeySetError`` or ``OSError``."""
        await self._file.start()

    async def close(self) -> None:
        """Follow no more."""
        await self._file.close()

    async def look_again(self) -> None:
        """Nothing: the file is looked at every second."""


class KeyAddress:
    """A key set at a URL."""

    def __init__(self, url: str, algorithms: tuple[str, ...], refresh: float) -> None:
        self._url = url
        self._algorithms = algorithms
        self._refresh = refresh
        self._keys = KeySet()
        self._data = b""
        self._wanted = asyncio.Event()
        self._answered = asyncio.Event()
        self._asked_at = -UNKNOWN_SECONDS
        self._is_asking = False
        self._waiting = 0
        self._complaint = ""
        self._task: asyncio.Task[None] | None = None

    @property
    def keys(self) -> KeySet:
        """Those of now; none before the issuer has answered."""
        return self._keys

    async def start(self) -> None:
        """Ask for them once. An issuer that does not answer is asked again: the gateway does not wait for it."""
        await self._ask()
        self._task = asyncio.create_task(self._follow(), name="gateway-jwt-keys")

    async def close(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def look_again(self) -> None:
        """Ask the issuer, together with all others who miss a key."""
        if self._waiting >= MAX_WAITING:
            return
        if not self._is_asking:
            if time.monotonic() - self._asked_at < UNKNOWN_SECONDS:
                return
            self._answered.clear()
            self._wanted.set()
        self._waiting += 1
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(FETCH_SECONDS + 1):
                    await self._answered.wait()
        finally:
            self._waiting -= 1

    async def _follow(self) -> None:
        pause = RETRY_SECONDS[0]
        while True:
            wait = min(pause, self._refresh) if self._complaint else self._refresh
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._wanted.wait()
            self._wanted.clear()
            await self._ask()
            pause = min(pause * 2, RETRY_SECONDS[1]) if self._complaint else RETRY_SECONDS[0]

    async def _ask(self) -> None:
        """Fetch the set and take it over, or complain, once for each reason."""
        self._is_asking = True
        self._answered.clear()
        self._asked_at = time.monotonic()
        try:
            data = await asyncio.to_thread(fetch, self._url)
            if data != self._data:
                self._keys = await asyncio.to_thread(parse_key_set, data, self._algorithms)
                self._data = data
            if self._complaint:
                logger.info("JWT keys: %s answers again", self._url)
            self._complaint = ""
        except Exception as error:  # noqa: BLE001 - whatever a server answers, it is asked again
            complaint = str(error) or type(error).__name__
            if complaint != self._complaint:
                holds = "the keys before hold on" if self._keys else "no token can be verified until there are some"
                logger.warning("JWT keys: %s: %s; %s", self._url, complaint, holds)
            self._complaint = complaint
        finally:
            self._is_asking = False
            self._answered.set()


def fetch(url: str) -> bytes:
    """Return what is at an http(s) URL; blocks. Raises ``OSError``, ``ValueError``, ``http.client.HTTPException``.

    It is not followed elsewhere: the operator has named the place that is trusted. Proxies are those of the
    environment, certificates those of the system (or ``SSL_CERT_FILE``).
    """
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    headers = {"accept": "application/jwk-set+json, application/json", "user-agent": "natsmesh-gateway"}
    limit = time.monotonic() + FETCH_SECONDS
    parts: list[bytes] = []
    size = 0
    with opener.open(urllib.request.Request(url, headers=headers), timeout=FETCH_SECONDS) as response:  # noqa: S310 - the options let only http and https pass
        while part := response.read1(64 * 1024):
            parts.append(part)
            size += len(part)
            if size > MAX_BYTES:
                raise KeySetError(f"more than {MAX_BYTES} bytes")
            if time.monotonic() > limit:
                raise TimeoutError(f"no whole answer within {FETCH_SECONDS} s")
    return b"".join(parts)
