"""``natsmesh events``: types of events, and the groups that handle them."""

from __future__ import annotations

import click

from natsmesh.groups import LazyGroup


@click.group(
    "events",
    cls=LazyGroup,
    modules={"list": "natsmesh.commands.events_list", "replay": "natsmesh.commands.events_replay"},
)
def command() -> None:
    """Events: what is kept, who handles it and how far they are, and replay from a time."""
