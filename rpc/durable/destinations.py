"""What telemetry calls a queue of jobs or a stream of events, and those who handle them: names without ids in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rpc.subjects import srv_name

if TYPE_CHECKING:
    from rpc.method import MethodInfo


def job_destination(info: MethodInfo) -> str:
    """Return ``jobs.<pkg.Service>.<Method>``."""
    return f"jobs.{info.service}.{info.name}"


def event_destination(event: str) -> str:
    """Return ``events.<message full name>``."""
    return f"events.{event}"


def consumed_by(info: MethodInfo) -> tuple[str, str]:
    """Return the destination that a job or a subscribed method handles, and the name of its group.

    The group is its consumer in JetStream; that of an ordered subscription has a number besides, for each partition.
    """
    if info.subscription is None:
        return job_destination(info), info.name
    return event_destination(info.subscription.event), f"{srv_name(info.service)}-{info.name}"
