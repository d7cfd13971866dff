"""Follows one job to its end."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

from natsmesh.exits import Exit
from natsmesh.jobs.reach import Reach, reach
from natsmesh.jobs.screen import Screen, bar
from natsmesh.jobs.text import any_json, error_of, job_object, next_of, state_of
from natsmesh.signals import StopSignal
from rpc.jobs.names import JobName

if TYPE_CHECKING:
    from natsmesh.options import Mesh
    from natsmesh.schema import Schema

_LOOK = 2.0
"""Seconds after which it is looked at without having heard anything: what tells of a change may get lost."""

_AGAIN = 0.05
_PERCENT = ("percent", "progress_percent", "percent_done", "progressPercent", "percentDone")
_CANCELLED = 1


async def follow(mesh: Mesh, name: JobName, *, as_json: bool) -> int:
    """Print what becomes of a job, until it has ended, or Ctrl-C; return the exit code that says how."""
    stop = StopSignal()
    screen = Screen()
    async with reach(mesh, "jobs watch") as found:
        changed = asyncio.Event()
        subscription = await found.connection.subscribe(found.records.subject(name), lambda _message: changed.set())
        try:
            last, pause = "", _LOOK
            while not stop.is_set:
                job = await _job(found, name)
                # Whoever wrote a message has a schema of it; before, there may be none.
                has_messages = job.HasField("progress") or job.HasField("response")
                schema = await found.schema(name.service) if has_messages else None
                text = json.dumps(job_object(job, schema), ensure_ascii=False) if as_json else _line(job, schema)
                if text != last:
                    last = text
                    _show(screen, job, text, schema, as_json=as_json)
                if state_of(job) in {"SUCCEEDED", "FAILED", "CANCELLED"}:
                    return _code(job)
                pause = await _changed(changed, stop, pause)
        finally:
            await subscription.unsubscribe()
    return Exit.SIGNAL + 2


async def _job(found: Reach, name: JobName) -> Any:
    """Return what is known of it; a broker that is away comes back."""
    while True:
        try:
            record = await found.operations.find(name)
        except ConnectionError as error:
            print(f"natsmesh: {error}", file=sys.stderr)  # noqa: T201 - what it is for
            await found.connection.wait_connected()
            await asyncio.sleep(_AGAIN)
            continue
        if record is None:
            from natsmesh.exits import Failure

            raise Failure(f"there is no operation {name} (any more)", Exit.NOT_FOUND)
        return record.job


async def _changed(changed: asyncio.Event, stop: StopSignal, pause: float) -> float:
    """Wait for a change, or a while; return how long to wait the next time: what was told may not be stored yet."""
    waiting = [asyncio.ensure_future(changed.wait()), asyncio.ensure_future(stop.wait())]
    try:
        await asyncio.wait(waiting, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
    if changed.is_set():
        changed.clear()
        return _AGAIN
    return min(2 * pause, _LOOK)


def _show(screen: Screen, job: Any, text: str, schema: Schema | None, *, as_json: bool) -> None:
    if as_json:
        print(text, flush=True)  # noqa: T201 - what it is for
        return
    text = f"{datetime.now().astimezone():%H:%M:%S}  {text}"
    if not screen.is_terminal:
        screen.show([text])
        return
    percent = _percent(job, schema)
    screen.show([text] if percent is None else [text, bar(percent / 100)])


def _line(job: Any, schema: Schema | None) -> str:
    parts = [state_of(job)]
    if job.attempt:
        parts.append(f"attempt {job.attempt}")
    if job.HasField("next_attempt_time"):
        parts.append(f"next {next_of(job)}")
    values = [getattr(job, field) for field in ("progress", "response") if job.HasField(field)]
    parts += [json.dumps(any_json(value, schema), ensure_ascii=False) for value in values]
    if error := error_of(job.error):
        parts.append(error)
    return "  ".join(parts)


def _percent(job: Any, schema: Schema | None) -> float | None:
    """Return how much of a job is done, if it says so in a field that is called so."""
    if not job.HasField("progress"):
        return None
    progress = any_json(job.progress, schema)
    for field in _PERCENT if isinstance(progress, dict) else ():
        if isinstance(value := progress.get(field), int | float):
            return float(value)
    return None


def _code(job: Any) -> int:
    state = state_of(job)
    if state == "SUCCEEDED":
        return Exit.OK
    return Exit.STATUS + (_CANCELLED if state == "CANCELLED" else job.error.code)
