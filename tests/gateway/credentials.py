"""Credentials for tests: an issuer of tokens with its keys, and files of API keys."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

ISSUER = "https://issuer.test"
AUDIENCE = "orders"


@cache
def private_key(algorithm: str, name: str, bits: int) -> Any:
    """A key for an algorithm; the same one for the same name, because making them takes time."""
    if algorithm.startswith(("RS", "PS")):
        return rsa.generate_private_key(public_exponent=65537, key_size=bits)
    if algorithm.startswith("ES"):
        return ec.generate_private_key({"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1()}[algorithm])
    return ed25519.Ed25519PrivateKey.generate()


def jwk(algorithm: str, name: str, *, bits: int = 2048, **more: Any) -> dict[str, Any]:
    """The public half, as an issuer publishes it."""
    public = private_key(algorithm, name, bits).public_key()
    makers: dict[str, Any] = {"RS": RSAAlgorithm, "PS": RSAAlgorithm, "ES": ECAlgorithm, "Ed": OKPAlgorithm}
    made: dict[str, Any] = makers[algorithm[:2]].to_jwk(public, as_dict=True)
    return {**{key: value for key, value in made.items() if key != "key_ops"}, "kid": name, **more}


def key_set(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


def token(
    algorithm: str = "RS256", kid: str = "one", *, key: Any = None, headers: dict[str, Any] | None = None, **claims: Any
) -> str:
    """A good token unless the arguments say otherwise; a claim that is None is left out."""
    now = time.time()
    all_claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "iat": int(now), "exp": int(now) + 300, **claims}
    present = {name: value for name, value in all_claims.items() if value is not None}
    signing = private_key(algorithm, kid, 2048) if key is None else key
    # As JWS: PyJWT's own function would refuse to make some of the wrong ones.
    payload = json.dumps(present).encode()
    return jwt.PyJWS().encode(payload, signing, algorithm=algorithm, headers={"kid": kid, **(headers or {})})


def bearer(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


def write_keys(path: Path, **keys: dict[str, Any]) -> Path:
    """Write a file of API keys, each given by its options; ``key`` is the key itself, its name by default."""
    lines = []
    for name, options in keys.items():
        digest = hashlib.sha256(options.pop("key", name).encode()).hexdigest()
        lines += [f"[keys.{name}]", f'sha256 = "{digest}"']
        for option, value in options.items():
            shown = json.dumps(value)
            if isinstance(value, dict):
                shown = "{" + ", ".join(f"{key} = {json.dumps(each)}" for key, each in value.items()) + "}"
            lines.append(f"{option} = {shown}")
    temporary = path.with_suffix(".new")
    temporary.write_text("\n".join(lines) + "\n")
    temporary.rename(path)
    return path


class JwksServer:
    """An issuer's web server. ``requests`` are counted; what it answers can be changed at any time."""

    def __init__(self) -> None:
        self.body = key_set(jwk("RS256", "one"))
        self.status = 200
        self.headers: dict[str, str] = {}
        self.raw = b""
        """What is answered instead of HTTP."""
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.requests = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests += 1
                outer.may_answer.wait(20)
                if outer.raw:
                    self.wfile.write(outer.raw)
                    return
                self.send_response(outer.status)
                for name, value in outer.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(outer.body)))
                self.end_headers()
                self.wfile.write(outer.body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/keys"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self.may_answer.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def jwks_server() -> Iterator[JwksServer]:
    server = JwksServer()
    try:
        yield server
    finally:
        server.close()
