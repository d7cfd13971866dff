"""Names and ids of jobs: ``operations/<package.Service>/<Method>/<id>``."""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from typing import Final, NamedTuple

from rpc.status import StatusCode, StatusError

_COLLECTION: Final = "operations"
_SERVICE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*\Z")
_METHOD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_LONGEST: Final = 512
_LAST_SEQUENCE: Final = 2**63 - 1

CRON: Final = "cron"
"""The last token of the subject of jobs that the broker makes by a schedule; their ids have the sequence behind it."""

MAX_REQUEST_ID: Final = 256
"""Characters of a request id that a client gives."""


class JobName(NamedTuple):
    """Which job: the parts of its operation's name."""

    service: str
    method: str
    job_id: str

    def __str__(self) -> str:
        return f"{_COLLECTION}/{self.service}/{self.method}/{self.job_id}"

    @property
    def scheduled_sequence(self) -> int | None:
        """The place in the stream of a job that the broker made by a schedule; None for others."""
        prefix, _, number = self.job_id.rpartition("-")
        if prefix != CRON or not (number.isascii() and number.isdigit()):
            return None
        return min(int(number), _LAST_SEQUENCE)


def parse_name(name: str) -> JobName:
    """Return the parts of an operation's name. Raises ``StatusError`` INVALID_ARGUMENT for what is none."""
    parts = name.split("/") if len(name) <= _LONGEST else []
    if (
        len(parts) != 4
        or parts[0] != _COLLECTION
        or not _SERVICE.match(parts[1])
        or not _METHOD.match(parts[2])
        or not _ID.match(parts[3])
    ):
        raise StatusError(
            StatusCode.INVALID_ARGUMENT,
            f"name: {name[:100]!r} names no operation (operations/<package.Service>/<Method>/<id>)",
        )
    return JobName(*parts[1:])


def is_job(service: str, method: str, job_id: str) -> bool:
    """Tell whether these may be the parts of a job's name: not all that lies in a stream was put there by us."""
    return bool(_SERVICE.match(service) and _METHOD.match(method) and is_id(job_id))


def is_id(job_id: str) -> bool:
    """Tell whether this may be a job's id."""
    return _ID.match(job_id) is not None


def parse_parent(name: str) -> tuple[str, str]:
    """Return (service, method) that a collection is narrowed to, "" for what it is not.

    ``operations``, ``operations/<package.Service>`` or ``operations/<package.Service>/<Method>``; "" is all. Raises
    ``StatusError`` INVALID_ARGUMENT.
    """
    parts = (name.rstrip("/") or _COLLECTION).split("/") if len(name) <= _LONGEST else []
    service, method = (*parts[1:3], "", "")[:2]
    if (
        not parts
        or len(parts) > 3
        or parts[0] != _COLLECTION
        or (service and not _SERVICE.match(service))
        or (method and not _METHOD.match(method))
    ):
        raise StatusError(
            StatusCode.INVALID_ARGUMENT,
            f"name: {name[:100]!r} is no collection (operations, operations/<package.Service>[/<Method>])",
        )
    return service, method


def new_id() -> str:
    """Return an id that sorts by time: a UUID of version 7 in hexadecimal (RFC 9562, 5.7)."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds & (1 << 48) - 1) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return f"{value:032x}"


def id_of_request(service: str, method: str, request_id: str) -> str:
    """Return the id of the job that a client named by a request id: always the same one."""
    return hashlib.sha256(f"{service}/{method}\0{request_id}".encode()).hexdigest()[:32]
