"""Commands to try, learned from the bus: printed when a service or a method turns up."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from natsmesh.examples import curl
from natsmesh.lines import Terminal
from natsmesh.schema import Schema

if TYPE_CHECKING:
    from rpc import ServiceView


class Hints:
    """Knows which methods were shown already."""

    def __init__(self, terminal: Terminal, address: str) -> None:
        """``address`` is the gateway's as curl takes it: ``localhost:8080``."""
        self._terminal = terminal
        self._address = address
        self._shown: dict[str, str] = {}

    def overview(self, views: Iterable[ServiceView]) -> None:
        """Print the commands for all that runs."""
        for view in sorted(views, key=lambda each: each.name):
            commands = self._new(view)
            if not view.instances or not commands:
                continue
            self._terminal.plain()
            self._terminal.heading(f"  {view.name}")
            for command in commands.values():
                self._terminal.plain(f"    {command}")

    def changed(self, view: ServiceView) -> None:
        """Print the commands for methods that were not there before, or are called in another way now."""
        for method, command in self._new(view).items():
            self._terminal.line("natsmesh", f"{view.name}/{method} can be called:  {command}")

    def _new(self, view: ServiceView) -> dict[str, str]:
        """Return the commands of a service's methods that were not shown before."""
        if not view.instances or not view.schema:
            return {}
        try:
            schema = Schema(view.schema)
            methods = list(schema.service(view.name).methods)
        except ValueError as error:
            self._terminal.error("natsmesh", f"{view.name}: {error}")
            return {}
        result = {}
        for method in methods:
            command = curl(schema, method, self._address)
            if command is not None and self._shown.get(method.full_name) != command:
                self._shown[method.full_name] = result[method.name] = command
        return result
