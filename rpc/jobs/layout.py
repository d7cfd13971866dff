"""Where jobs are kept: the streams, consumers and buckets that the mesh makes for them."""

from __future__ import annotations

from typing import Final

from rpc.durable.options import JobOptions
from rpc.jetstream.specs import ConsumerSpec, StreamSpec, bucket
from rpc.subjects import Subjects

UNLIMITED_PENDING: Final = -1
"""Messages that wait for their next attempt count as pending: a limit would let them block the others."""


def queue_name(subjects: Subjects, service: str) -> str:
    """Return the name of the stream that a service's requests wait in."""
    return subjects.jetstream("JOBS", service)


def queue(subjects: Subjects, service: str) -> StreamSpec:
    """Return the work queue of a service's jobs."""
    return StreamSpec(
        name=queue_name(subjects, service),
        subjects=(subjects.jobs_of(service), subjects.jobs_later_of(service)),
        description=f"Requests of the durable jobs of {service}",
        retention="workqueue",
        allow_msg_ttl=True,
        allow_msg_schedules=True,
    )


def workers(subjects: Subjects, job: JobOptions) -> ConsumerSpec:
    """Return the consumer that all workers of a method share."""
    return ConsumerSpec(
        name=job.method,
        filter_subject=subjects.jobs_of(job.service, job.method),
        description=f"Workers of {job.service}/{job.method}",
        ack_wait=job.ack_wait,
        max_ack_pending=UNLIMITED_PENDING,
    )


def records_name(subjects: Subjects) -> str:
    """Return the name of the stream under the bucket of records."""
    return f"KV_{subjects.jetstream('operations')}"


def records(subjects: Subjects) -> StreamSpec:
    """Return the bucket of what is known of jobs; each record of an ended one ends with a time of its own."""
    return bucket(subjects.jetstream("operations"), "What is known of durable jobs", allow_msg_ttl=True)
