"""``natsmesh jobs``: durable jobs, their queues and their dead letters."""

from __future__ import annotations

import click

from natsmesh.groups import LazyGroup


@click.group(
    "jobs",
    cls=LazyGroup,
    modules={
        "list": "natsmesh.commands.jobs_list",
        "show": "natsmesh.commands.jobs_show",
        "watch": "natsmesh.commands.jobs_watch",
        "retry": "natsmesh.commands.jobs_retry",
        "cancel": "natsmesh.commands.jobs_cancel",
        "purge": "natsmesh.commands.jobs_purge",
    },
)
def command() -> None:
    """Durable jobs: what waits, runs and ended, and the dead letters."""
