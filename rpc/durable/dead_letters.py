"""Dead letters: requests and events that nobody could handle, kept as they were, with the reason."""

from __future__ import annotations

from functools import partial
from typing import Final

from rpc.jetstream.api import MESSAGE_ID, JetStream
from rpc.jetstream.specs import StreamSpec
from rpc.jetstream.streams import ensure_stream
from rpc.status import StatusError
from rpc.subjects import Subjects

MAX_AGE: Final = 30 * 86400.0
"""Seconds that dead letters are kept."""

ERROR_CODE: Final = "natsmesh-error-code"
ERROR_MESSAGE: Final = "natsmesh-error-message"
ATTEMPTS: Final = "natsmesh-attempts"
SUBJECT: Final = "natsmesh-subject"

_MAX_ERROR: Final = 1024
_OWN: Final = ("Nats-",)


def dead_letters(subjects: Subjects) -> StreamSpec:
    """Return the stream of all dead letters of a mesh."""
    return StreamSpec(
        name=subjects.jetstream("DEAD-LETTERS"),
        subjects=(subjects.dead_letters,),
        description="Requests and events that nobody could handle",
        max_age=MAX_AGE,
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
    timeout: float,
) -> None:
    """Store a dead letter under ``subject``. Stored once, however often that is tried within the dedup window.

    Raises ``ConnectionError`` or ``JetStreamError`` when that is not certain.
    """
    kept = {name: value for name, value in headers.items() if not name.startswith(_OWN)}
    kept[MESSAGE_ID] = f"{subject}-{attempts}"
    kept[ERROR_CODE] = error.code.name
    # A header is one line of text; what handlers write into it is theirs.
    kept[ERROR_MESSAGE] = "".join(char if char.isprintable() else " " for char in error.details[:_MAX_ERROR])
    kept[ATTEMPTS] = str(attempts)
    kept[SUBJECT] = origin
    await js.publish(subject, data, kept, timeout=timeout, ensure=partial(ensure_dead_letters, js, subjects))
