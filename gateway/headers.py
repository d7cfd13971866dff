"""HTTP headers in and out: what passes as metadata, what the gateway reads itself, what never passes.

A header costs on every hop behind the gateway, so what only concerns HTTP stays here: content negotiation, caching,
browsers' own headers, the proxy chain. Whatever else a client sends (``authorization``, ``cookie``, ``x-...``)
passes. Names that could be taken for the protocol's or the bus's own (``grpc-``, ``mesh-``, ``nats-``) never do, and
neither do trace headers: telemetry decides what is sent on. ``x-claim-`` is for what the gateway itself says of who
calls; from a client it never passes, whether callers are authenticated or not, so services may trust it.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from itertools import count
from secrets import token_hex
from typing import Final

from gateway.compression import Codings
from gateway.errors import BadRequest, HttpError
from rpc import Metadata, StatusCode, parse_timeout

RawHeaders = Iterable[tuple[bytes, bytes]]

MAX_METADATA_BYTES: Final = 16 * 1024
"""What names and values of the metadata of one call may add up to; the same as on the bus."""

_PAIR_COST: Final = 32  # what each pair counts besides; the same as on the bus, too

CLAIM_PREFIX: Final = "x-claim-"
"""Metadata of this prefix is the gateway's word."""

# Also as a back-end might take it, which reads metadata as CGI variables, or as dotted names.
_CLAIM = re.compile(rb"x[-_.]claim[-_.]", re.IGNORECASE)

MAX_NAMES_KNOWN: Final = 1024
"""Header names whose fate is remembered. Clients choose names, so there is a bound."""

_DROPPED: Final = frozenset(
    # Hop-by-hop (RFC 9110, 7.6.1), and what belongs to this hop's message.
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer transfer-encoding "
    b"upgrade host expect max-forwards content-length content-encoding content-language content-location "
    b"content-disposition content-md5 content-range content-digest "
    # Negotiation, conditions, caching: between the client and the gateway.
    b"accept accept-charset accept-encoding accept-language range if-match if-none-match if-modified-since "
    b"if-unmodified-since if-range cache-control pragma date age vary etag expires "
    # What browsers and tools add by themselves.
    b"user-agent origin referer dnt priority upgrade-insecure-requests save-data http2-settings purpose "
    b"access-control-request-method access-control-request-headers "
    # The proxy chain: only a trusted proxy's word counts, and that is for the operator to say (``forward_headers``).
    b"forwarded via x-forwarded-for x-forwarded-host x-forwarded-port x-forwarded-proto x-forwarded-prefix x-real-ip "
    # Trace context is sent on by telemetry, or not at all.
    b"traceparent tracestate baggage".split()
)
_DROPPED_PREFIXES: Final = (b"nats-", b"grpc-", b"mesh-", b"connect-", b"sec-", b":")

_NEVER_FORWARDED: Final = frozenset(
    b"connection keep-alive proxy-connection te trailer transfer-encoding upgrade expect content-length content-type "
    b"content-encoding accept-encoding x-request-id traceparent tracestate baggage".split()
)
_NEVER_FORWARDED_PREFIXES: Final = (b"nats-", b"grpc-", b"mesh-", b":")

_NAME = re.compile(rb"[0-9a-z_.-]+")
_VALUE = re.compile(rb"[\x20-\x7e]*")
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_CONNECT_TIMEOUT = re.compile(rb"[0-9]{1,10}")

_CONTENT_TYPE, _CONTENT_LENGTH, _CONTENT_ENCODING, _REQUEST_ID_NAME, _GRPC_TIMEOUT, _CONNECT_TIMEOUT_NAME, _VERSION = (
    range(1, 8)
)
_ACCEPT_ENCODING: Final = 8
_READ: Final = {
    b"content-type": _CONTENT_TYPE,
    b"content-length": _CONTENT_LENGTH,
    b"content-encoding": _CONTENT_ENCODING,
    b"x-request-id": _REQUEST_ID_NAME,
    b"grpc-timeout": _GRPC_TIMEOUT,
    b"connect-timeout-ms": _CONNECT_TIMEOUT_NAME,
    b"connect-protocol-version": _VERSION,
    b"accept-encoding": _ACCEPT_ENCODING,
}

# Response metadata that would break the framing or the gateway's own headers.
_NEVER_ANSWERED: Final = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate te trailer transfer-encoding upgrade content-length "
    b"content-type content-encoding content-range date server host x-request-id".decode().split()
)
_NEVER_ANSWERED_PREFIXES: Final = ("grpc-", "mesh-", "nats-", ":")
_TEXT_VALUE = re.compile(r"[\x20-\x7e]*")
_TEXT_NAME = re.compile(r"[0-9a-z_.-]+")

_id_prefix = token_hex(6)
_id_numbers = count(1)


def new_request_id() -> bytes:
    """Return an id that is unique among all gateways; it is a name, not a secret."""
    return f"{_id_prefix}-{next(_id_numbers):x}".encode()


def may_be_forwarded(name: str) -> bool:
    """Tell whether an operator may let a header pass: not when it is the protocol's, the bus's, or of this hop only."""
    raw = name.lower().encode("latin-1", "replace")
    return (
        bool(_NAME.fullmatch(raw))
        and not raw.startswith(_NEVER_FORWARDED_PREFIXES)
        and not _CLAIM.match(raw)
        and raw not in _NEVER_FORWARDED
    )


class RequestHead:
    """What the gateway needs to know of the headers of a request."""

    __slots__ = (
        "codings",
        "connect_version",
        "content_length",
        "content_type",
        "metadata",
        "request_id",
        "timeout",
    )

    def __init__(self) -> None:
        self.content_type = ""
        self.codings: Codings | None = None
        """None: neither is the body compressed, nor is the answer wanted so."""
        self.content_length = 0
        """Bytes that the body is going to have; 0 also when the client does not say."""
        self.request_id = b""
        """The client's own id, if it sent one that is fit to be passed on."""
        self.timeout: float | None = None
        """Seconds that the client is ready to wait."""
        self.connect_version = b""
        self.metadata: list[tuple[str, str | bytes]] | None = None
        """What passes to the back-end."""


class HeaderReader:
    """Reads request headers. ``forward`` names headers that pass although they would not by default.

    Each name is judged once; requests then find the verdict in a table.
    """

    __slots__ = ("_forward", "_seal", "_verdicts")

    def __init__(self, forward: Iterable[str] = ()) -> None:
        self._seal = token_hex(16).encode() + b":"
        self._forward = frozenset(name.lower().encode() for name in forward)
        # 0: dropped. 1 and up: read here. Text: passes, under this name.
        self._verdicts: dict[bytes, int | str] = {**dict.fromkeys(_DROPPED - self._forward, 0), **_READ}

    def sealed(self, name: str) -> bytes:
        """Return the header name by which the gateway itself hands metadata to this reader, also of ``CLAIM_PREFIX``.

        No client knows it, and it is no name that HTTP allows.
        """
        sealed = self._seal + name.encode("ascii")
        self._verdicts[sealed] = name
        return sealed

    def read(self, headers: RawHeaders) -> RequestHead:
        """Return what the headers say. Raises ``HttpError`` for those that are malformed."""
        head = RequestHead()
        verdicts = self._verdicts
        for name, value in headers:
            verdict = verdicts.get(name)
            if verdict is None:
                verdict = self._judge(name)
            if not verdict:
                continue
            if verdict == _CONTENT_TYPE:
                head.content_type = value.decode("latin-1")
            elif verdict == _CONTENT_LENGTH:
                # The server has seen to it that there is one only; int() takes more than digits.
                if not value.isdigit():
                    raise BadRequest("header content-length: expected digits")
                head.content_length = int(value)
            else:
                self._read_other(head, verdict, value)
        if head.metadata is not None:
            _check_size(head.metadata)
        return head

    def _read_other(self, head: RequestHead, verdict: int | str, value: bytes) -> None:
        if isinstance(verdict, str):
            _add_metadata(head, verdict, value)
        elif verdict in {_ACCEPT_ENCODING, _CONTENT_ENCODING}:
            _read_coding(head, verdict, value)
        elif verdict == _REQUEST_ID_NAME:
            # Who sends an id wants to find it again, in the services' logs as well.
            if _REQUEST_ID.fullmatch(value):
                head.request_id = value
                _add_metadata(head, "x-request-id", value)
        elif verdict == _VERSION:
            head.connect_version = value
        elif verdict == _GRPC_TIMEOUT:
            try:
                _shorten(head, parse_timeout(value.decode("latin-1")))
            except ValueError as error:
                raise BadRequest(f"header grpc-timeout: {error}") from None
        else:
            if not _CONNECT_TIMEOUT.fullmatch(value):
                raise BadRequest("header connect-timeout-ms: expected at most 10 digits")
            _shorten(head, int(value) / 1000)

    def _judge(self, name: bytes) -> int | str:
        verdict: int | str
        if name in self._forward:
            verdict = name.decode("ascii")
        elif name.startswith(_DROPPED_PREFIXES) or not _NAME.fullmatch(name) or _CLAIM.match(name):
            verdict = 0
        else:
            verdict = name.decode("ascii")
        if len(self._verdicts) < MAX_NAMES_KNOWN:
            self._verdicts[name] = verdict
        return verdict


def _read_coding(head: RequestHead, verdict: int, value: bytes) -> None:
    codings = head.codings
    if codings is None:
        codings = head.codings = Codings()
    if verdict == _ACCEPT_ENCODING:
        codings.accept = codings.accept + b"," + value if codings.accept else value
    elif (name := value.strip().lower()) != b"identity":
        codings.content = codings.content + b"," + name if codings.content else name


def _add_metadata(head: RequestHead, name: str, value: bytes) -> None:
    if not _VALUE.fullmatch(value):
        return  # gRPC metadata is printable ASCII; anything else cannot be carried.
    if head.metadata is None:
        head.metadata = []
    if name.endswith("-bin"):
        head.metadata.extend((name, each) for each in decode_binary(name, value))
    else:
        head.metadata.append((name, value.decode("ascii")))


def decode_binary(name: str, value: bytes) -> list[bytes]:
    """Return the values of a ``-bin`` header: base64, padded or not, perhaps several. Raises ``BadRequest``."""
    decoded: list[bytes] = []
    for part in value.split(b","):
        digits = part.strip().rstrip(b"=")
        try:
            decoded.append(base64.b64decode(digits + b"=" * (-len(digits) % 4), validate=True))
        except (binascii.Error, ValueError):
            raise BadRequest(f"header {name}: the value of a '-bin' header must be base64") from None
    return decoded


def _shorten(head: RequestHead, seconds: float) -> None:
    if head.timeout is None or seconds < head.timeout:
        head.timeout = seconds


def _check_size(metadata: list[tuple[str, str | bytes]]) -> None:
    size = sum(len(name) + len(value) + _PAIR_COST for name, value in metadata)
    if size > MAX_METADATA_BYTES:
        raise HttpError(
            StatusCode.RESOURCE_EXHAUSTED,
            f"the headers that pass to the service have {size} bytes: at most {MAX_METADATA_BYTES} are allowed, "
            "send fewer or shorter ones",
            status=431,
        )


def answer_headers(initial: Metadata, trailing: Metadata) -> list[tuple[bytes, bytes]]:
    """Return the metadata of a response as HTTP headers: trailing ones as ``trailer-...``, bytes as base64.

    Metadata that would break the message or pose as the gateway's is left out.
    """
    headers: list[tuple[bytes, bytes]] = []
    for prefix, metadata in (("", initial), ("trailer-", trailing)):
        for name, value in metadata:
            if name in _NEVER_ANSWERED or name.startswith(_NEVER_ANSWERED_PREFIXES) or not _TEXT_NAME.fullmatch(name):
                continue
            if isinstance(value, bytes):
                # Connect and gRPC leave the padding out.
                headers.append(((prefix + name).encode(), base64.b64encode(value).rstrip(b"=")))
            elif _TEXT_VALUE.fullmatch(value):
                headers.append(((prefix + name).encode(), value.encode()))
    return headers
