"""Jobs and dead letters for people, and for programs."""

from __future__ import annotations

import base64
import time
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format
from google.protobuf.message import DecodeError

from mesh.v1 import job_pb2
from rpc.status import code_from_number

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from natsmesh.schema import Schema
    from rpc.durable.letters import DeadLetter

_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


def duration(seconds: float) -> str:
    """Return a time for people: ``4.2 s``, ``3 min``, ``2 h``, ``5 d``."""
    for size, unit in _UNITS:
        if abs(seconds) >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s" if abs(seconds) < 10 else f"{seconds:.0f} s"


def state_of(job: Any) -> str:
    """Return the name of a job's state."""
    return job_pb2.Job.State.Name(job.state).removeprefix("STATE_")


def seconds_of(stamp: Timestamp) -> float:
    """Return a time in Unix seconds."""
    return stamp.ToNanoseconds() / 1e9


def time_of(stamp: Timestamp) -> str:
    """Return a time in RFC 3339, "" for what is none."""
    try:
        return stamp.ToJsonString()
    except ValueError:
        return ""


def age_of(job: Any) -> str:
    """Return how long ago a job came."""
    return duration(max(0.0, time.time() - seconds_of(job.create_time))) if job.HasField("create_time") else "-"


def next_of(job: Any) -> str:
    """Return in how long a job is tried next."""
    if not job.HasField("next_attempt_time"):
        return "-"
    left = seconds_of(job.next_attempt_time) - time.time()
    return f"in {duration(left)}" if left > 0 else "now"


def error_of(status: Any) -> str:
    """Return a status in one line."""
    if not status.code:
        return ""
    return f"{code_from_number(status.code).name}: {clean(status.message)}"


def clean(text: str) -> str:
    """Return a text in one line, without what a terminal would take for commands: others wrote it."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def cut(text: str, length: int) -> str:
    """Return a text that is not longer than that."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


def any_json(value: Any, schema: Schema | None) -> Any:
    """Return a message in a ``google.protobuf.Any`` as JSON, or what can be said of it without its schema."""
    return message_json(value.type_url.rpartition("/")[2], value.value, schema)


def message_json(full_name: str, data: bytes, schema: Schema | None) -> Any:
    """Return a serialized message as JSON, or in base64 when it cannot be read."""
    if schema is not None:
        try:
            message = schema.message_class(full_name).FromString(data)
            return json_format.MessageToDict(message, descriptor_pool=schema.pool)
        except (KeyError, DecodeError, TypeError, ValueError):
            pass
    return {"@type": full_name, "base64": base64.b64encode(data).decode()}


def request_json(service: str, method: str, data: bytes, schema: Schema | None) -> Any:
    """Return a method's serialized request as JSON."""
    full_name = ""
    if schema is not None:
        try:
            methods = {each.name: each for each in schema.service(service).methods}
            full_name = methods[method].input_type.full_name
        except (KeyError, ValueError):
            schema = None
    return message_json(full_name, data, schema)


def job_object(job: Any, schema: Schema | None = None) -> dict[str, Any]:
    """Return a job for programs; what it reported and returned is left out without a schema."""
    _, service, method, job_id = job.name.split("/")
    found: dict[str, Any] = {"name": job.name, "service": service, "method": method, "id": job_id}
    found |= {"state": state_of(job), "attempt": job.attempt}
    for field in ("create_time", "start_time", "end_time", "next_attempt_time"):
        if job.HasField(field):
            found[field] = time_of(getattr(job, field))
    if job.worker:
        found["worker"] = job.worker
    if job.HasField("error"):
        found["error"] = _error_object(job.error)
    if job.history:
        found["history"] = [
            {
                "number": each.number,
                **{
                    field: time_of(getattr(each, field)) for field in ("start_time", "end_time") if each.HasField(field)
                },
                "error": _error_object(each.error),
                **({"worker": each.worker} if each.worker else {}),
            }
            for each in job.history
        ]
    for field in ("progress", "response"):
        if job.HasField(field):
            found[field] = any_json(getattr(job, field), schema)
    return found


def _error_object(status: Any) -> dict[str, str]:
    return {"code": code_from_number(status.code).name, "message": status.message}


def letter_object(letter: DeadLetter, schema: Schema | None = None, *, payload: bool = False) -> dict[str, Any]:
    """Return a dead letter for programs."""
    found: dict[str, Any] = {
        "name": letter.name,
        "service": letter.service,
        "method": letter.method,
        "time": letter.stored.time,
        "attempts": letter.attempts,
        "error": {"code": letter.code, "message": letter.message},
        "subject": letter.origin,
    }
    if payload:
        found["headers"] = {
            name: value for name, value in letter.stored.headers.items() if not name.startswith(("Nats-", "natsmesh-"))
        }
        found["request"] = request_json(letter.service, letter.method, letter.stored.data, schema)
    return found
