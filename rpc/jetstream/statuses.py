"""What goes wrong with JetStream, as the status of a call."""

from __future__ import annotations

from typing import Final

from rpc.jetstream.api import JetStreamError
from rpc.jetstream.specs import StreamError
from rpc.status import StatusCode, StatusError

FAILURES: Final = (ConnectionError, JetStreamError, StreamError)
"""What requests to JetStream raise."""

_UNAVAILABLE: Final = 503
"""JetStream's code while it is off, or has no leader."""

_FULL: Final = frozenset({10023, 10025, 10047, 10077, 10122})
"""JetStream's codes for a stream, a server or an account that takes no more."""


def status_of(error: Exception) -> StatusError:
    """Return the status for one of ``FAILURES``."""
    if isinstance(error, JetStreamError):
        code = StatusCode.UNAVAILABLE if error.code == _UNAVAILABLE else StatusCode.INTERNAL
        if error.err_code in _FULL:
            code = StatusCode.RESOURCE_EXHAUSTED
        return StatusError(code, f"JetStream refuses: {error.description}")
    if isinstance(error, StreamError):
        return StatusError(StatusCode.FAILED_PRECONDITION, str(error))
    return StatusError(StatusCode.UNAVAILABLE, str(error))
