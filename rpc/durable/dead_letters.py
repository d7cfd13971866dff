"""Dead letters: requests and events that nobody could handle, kept as they were, with the reason."""

from __future__ import annotations

import logging
from functools import partial
from typing import Final

from rpc.jetstream.api import MESSAGE_ID, JetStream
from rpc.jetstream.specs import StreamSpec
from rpc.jetstream.streams import ensure_stream
from rpc.status import StatusError
from rpc.subjects import Subjects

logger = logging.getLogger(__name__)

MAX_AGE: Final = 30 * 86400.0
"""Seconds that dead letters are kept."""

ERROR_CODE: Final = "natsmesh-error-code"
ERROR_MESSAGE: Final = "natsmesh-error-message"
ATTEMPTS: Final = "natsmesh-attempts"
SUBJECT: Final = "natsmesh-subject"

EVENT_ID: Final = "natsmesh-id"
"""The id that its publisher gave an event."""

_MAX_ERROR: Final = 1024
_OWN: Final = ("Nats-",)


def dead_letters(subjects: Subjects) -> StreamSpec:
    """Return the stream of all dead letters of a mesh."""
    return StreamSpec(
        name=subjects.jetstream("DEAD-LETTERS"),
        subjects=(subjects.dead_letters,),
        description="Requests and events that nobody could handle",
        max_age=MAX_AGE,
        max_msgs_per_subject=1,
    )


async def ensure_dead_letters(js: JetStream, subjects: Subjects, *, migrate: bool = False) -> None:
    """Make the stream, unless it is there."""
    await ensure_stream(js, dead_letters(subjects), migrate=migrate)


async def bury(  # noqa: PLR0913 - all that a dead letter says
    js: JetStream,
    subjects: Subjects,
    subject: str,
    *,
    origin: str,
    data: bytes,
    headers: dict[str, str],
    error: StatusError,
    attempts: int,
    sequence: int,
    timeout: float,
) -> None:
    """Store a dead letter under ``subject``, one for each, however often that is tried.

    ``origin`` and ``sequence`` say where in which subject the message was. Raises ``ConnectionError`` or
    ``JetStreamError`` when it is not certain that it is stored.
    """
    own = {
        MESSAGE_ID: f"{subject}@{sequence}",
        ERROR_CODE: error.code.name,
        # A header is one line of text; what handlers write into it is theirs.
        ERROR_MESSAGE: "".join(char if char.isprintable() else " " for char in error.details[:_MAX_ERROR]),
        ATTEMPTS: str(attempts),
        SUBJECT: origin,
    }
    if MESSAGE_ID in headers:
        own[EVENT_ID] = headers.get(EVENT_ID) or headers[MESSAGE_ID]
    kept = {name: value for name, value in headers.items() if not name.startswith(_OWN)}
    ensure = partial(ensure_dead_letters, js, subjects)
    try:
        await js.publish(subject, data, {**kept, **own}, timeout=timeout, ensure=ensure)
    except ValueError:
        # Too large by what is said of the error: then it goes without its metadata, rather than not at all.
        logger.warning("%s: the dead letter is too large for the broker with its metadata, which is left out", subject)
        await js.publish(subject, data, own, timeout=timeout, ensure=ensure)
