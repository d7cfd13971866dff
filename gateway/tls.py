"""TLS: certificates, whom they let in, and how new ones come into use without a restart.

HTTP/1.1 and HTTP/2 share the port; clients choose by ALPN (RFC 7301).
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from gateway.option_types import ConfigError, Seconds

logger = logging.getLogger(__name__)

_ALPN: Final = ["h2", "http/1.1"]

_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: those that HTTP/2 allows (RFC 9113, 9.2.2). Those of TLS 1.3 are all good."""

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class TlsError(ConfigError):
    """A certificate, a key or what belongs to them cannot be used; the text names option and file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsOptions:
    """The files of TLS, all PEM. They are read when the gateway starts, on SIGHUP, and when they change."""

    certificate: Path
    """The server's certificate, followed by those between it and its authority; the key may be in it as well."""

    key: Path | None = None
    """Its private key; None: it is in the file of the certificate."""

    key_password_file: Path | None = None
    """Holds what the key is encrypted with; a line break at its end does not count."""

    client_ca: Path | None = None
    """Authorities whose certificates clients identify themselves with (mTLS); None: clients need none."""

    client_certificates: Literal["required", "optional"] = "required"
    """With ``client_ca``: whether clients without a certificate are let in. One that is not valid never is."""

    min_version: Literal["1.2", "1.3"] = "1.2"
    """The lowest version of TLS that is spoken."""

    check_every: Seconds = 2.0
    """How often the files are looked at. Changed ones are read when they have not changed between two looks."""

    def __post_init__(self) -> None:
        if not self.check_every > 0:
            raise ConfigError(f"check_every {self.check_every}: must be more than 0 seconds")
        if self.min_version not in _VERSIONS:
            raise ConfigError(f"min_version {self.min_version}: choose 1.2 or 1.3")
        if self.client_certificates not in {"required", "optional"}:
            raise ConfigError(f"client_certificates {self.client_certificates}: choose required or optional")

    @property
    def wants_client_certificates(self) -> bool:
        """Tell whether nobody is let in without one."""
        return self.client_ca is not None and self.client_certificates == "required"


class Certificates:
    """The certificates of one process. Those that exist when a connection begins are its own until it ends."""

    def __init__(self, options: TlsOptions) -> None:
        self.options = options
        self._live: _LiveContext | None = None
        self._seen: tuple[object, ...] = ()

    def check(self) -> None:
        """Raise ``TlsError`` if they cannot be used."""
        _context(self.options)

    def __call__(self, _config: object, _default: object) -> ssl.SSLContext:
        """Return what connections are secured with, for as long as the process runs: uvicorn's ``ssl_context_factory``.

        Raises ``TlsError``.
        """
        self._seen = self._look()
        live = _LiveContext(ssl.PROTOCOL_TLS_SERVER)
        live.current = _context(self.options)
        self._live = live
        return live

    def reload(self) -> bool:
        """Use what the files hold now for new connections. If it cannot be used, nothing changes, and the log says why.

        Returns whether it is in use now.
        """
        live = self._live
        assert live is not None  # noqa: S101 - whoever reloads has loaded
        self._seen = self._look()
        try:
            live.current = _context(self.options)
        except TlsError as error:
            logger.error("TLS: new files cannot be used, those read before stay in use: %s", error)  # noqa: TRY400
            return False
        logger.info("TLS: new connections use %s as it is now", self.options.certificate)
        return True

    async def watch(self) -> None:
        """Reload whenever files have changed and then stayed the same for a while, until cancelled."""
        before = self._seen
        while True:
            await asyncio.sleep(self.options.check_every)
            now = await asyncio.to_thread(self._look)
            if now != self._seen and now == before:
                await asyncio.to_thread(self.reload)
            before = now

    def _look(self) -> tuple[object, ...]:
        options = self.options
        files = (options.certificate, options.key, options.key_password_file, options.client_ca)
        return tuple(_state(path) for path in files if path is not None)


class _LiveContext(ssl.SSLContext):
    """A context whose connections get another one, the one that is current when they begin.

    A context that is in use can get another certificate, but it can never forget an authority, and between certificate
    and key there would be a moment when they do not fit.
    """

    current: ssl.SSLContext

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        """Begin a connection: what asyncio and uvloop call for each."""
        return self.current.wrap_bio(*arguments, **options)


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()  # Of the target, if it is a link: that is how Kubernetes changes files.
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _context(options: TlsOptions) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[options.min_version]
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(_ALPN)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    _load_chain(context, options)
    if options.client_ca is not None:
        _load_authorities(context, options.client_ca)
        wanted = options.client_certificates == "required"
        context.verify_mode = ssl.CERT_REQUIRED if wanted else ssl.CERT_OPTIONAL
    return context


def _load_chain(context: ssl.SSLContext, options: TlsOptions) -> None:
    certificate, key = options.certificate, options.key
    certificates = _read("certificate", certificate)
    if b"-----BEGIN CERTIFICATE-----" not in certificates:
        raise TlsError(f"certificate {certificate}: holds no certificate in PEM form")
    named_key = f"key {key}" if key is not None else f"certificate {certificate}"
    if b"PRIVATE KEY-----" not in (certificates if key is None else _read("key", key)):
        hint = "holds no private key in PEM form" if key is not None else "holds no private key: name it with key"
        raise TlsError(f"{named_key}: {hint}")
    try:
        context.load_cert_chain(certificate, key, password=lambda: _password(options, named_key))
    except ssl.SSLError as error:
        reason = error.reason or str(error)
        if reason in {"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"}:
            raise TlsError(f"{named_key}: is not the key of certificate {certificate}") from error
        if not _are_certificates(certificates):
            raise TlsError(f"certificate {certificate}: is damaged ({reason})") from error
        if options.key_password_file is not None and b"ENCRYPTED" in _read("key", key or certificate):
            hint = f"cannot be decrypted with the password in {options.key_password_file} ({reason})"
        else:
            hint = f"cannot be used ({reason})"
        raise TlsError(f"{named_key}: {hint}") from error
    except OSError as error:
        raise TlsError(f"certificate {certificate}: {error.strerror or error}") from error


def _password(options: TlsOptions, key: str) -> bytes:
    # Without this function OpenSSL would ask whoever sits at the terminal, and wait.
    if options.key_password_file is None:
        raise TlsError(f"{key}: is encrypted: name the file that holds its password with key_password_file")
    return _read("key_password_file", options.key_password_file).rstrip(b"\r\n")


def _are_certificates(data: bytes) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=data.decode("latin-1"))
    except (ssl.SSLError, ValueError):
        return False
    return True


def _load_authorities(context: ssl.SSLContext, path: Path) -> None:
    if b"-----BEGIN CERTIFICATE-----" not in _read("client_ca", path):
        raise TlsError(f"client_ca {path}: holds no certificate in PEM form")
    try:
        context.load_verify_locations(path)
    except (ssl.SSLError, OSError) as error:
        raise TlsError(f"client_ca {path}: is damaged ({getattr(error, 'reason', None) or error})") from error


def _read(option: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(f"{option} {path}: {error.strerror or error}") from error
