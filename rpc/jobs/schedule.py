"""Jobs by the clock: the broker makes them, at the times that the .proto says. Source: NATS ADR-51."""

from __future__ import annotations

from functools import partial

from rpc.durable.options import JobOptions
from rpc.jetstream.api import JetStream
from rpc.jetstream.features import Feature, require
from rpc.jetstream.streams import ensure_stream
from rpc.jobs.layout import queue, queue_name
from rpc.jobs.names import CRON
from rpc.subjects import Subjects


async def set_schedule(js: JetStream, subjects: Subjects, job: JobOptions) -> None:
    """Have the broker make jobs as the ``.proto`` says: by its schedule, or none any more.

    Raises ``ConnectionError``, ``JetStreamError``, and ``StreamError`` for a broker that is too old for it.
    """
    subject = subjects.job_later(job.service, job.method, CRON)
    stored = await js.last(queue_name(subjects, job.service), subject)
    current = "" if stored is None else stored.headers.get("Nats-Schedule", "")
    if current == job.schedule:
        return  # Every worker that starts comes here: the rhythm must not begin anew with each.
    if not job.schedule:
        await js.request(f"STREAM.PURGE.{queue_name(subjects, job.service)}", {"filter": subject})
        return
    await require(js, f"the schedule of {job.service}/{job.method}", Feature.REPEATED_SCHEDULES)
    headers = {
        "Nats-Schedule": job.schedule,
        "Nats-Schedule-Target": subjects.job(job.service, job.method, CRON),
    }
    spec = queue(subjects, job.service)

    async def ensure() -> None:
        await partial(ensure_stream, js, spec, migrate=False)()

    await js.publish(subject, b"", headers, ensure=ensure)
