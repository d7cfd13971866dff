"""Commands to try, learned from the bus: printed when a service or a method turns up."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING

from natsmesh.examples import curl
from natsmesh.lines import Terminal
from natsmesh.schema import Schema

if TYPE_CHECKING:
    from rpc import ServiceView

_KNOWN_SECONDS = 3.0
_POLL_SECONDS = 0.03


class Hints:
    """Knows which methods were shown already."""

    def __init__(self, terminal: Terminal, address: str) -> None:
        """``address`` is the gateway's as curl takes it: ``localhost:8080``."""
        self._terminal = terminal
        self._address = address
        self._shown: dict[str, str] = {}

    async def overview(self, views: Iterable[ServiceView]) -> None:
        """Print the commands for all that runs."""
        for view in sorted(views, key=lambda each: each.name):
            commands = self._new(view)
            if not commands:
                continue
            await asyncio.to_thread(self._until_known, f"/{view.name}/{next(iter(commands))}")
            self._terminal.plain()
            self._terminal.heading(f"  {view.name}")
            for command in commands.values():
                self._terminal.plain(f"    {command}")

    async def changed(self, view: ServiceView) -> None:
        """Print the commands for methods that were not there before, or are called in another way now.

        Each is printed once the gateway knows the method too: it learns from the bus as we do, at its own pace.
        """
        for method, command in self._new(view).items():
            await asyncio.to_thread(self._until_known, f"/{view.name}/{method}")
            self._terminal.line("natsmesh", f"{view.name}/{method} can be called:  {command}")

    def _until_known(self, path: str) -> None:
        end = time.monotonic() + _KNOWN_SECONDS
        while time.monotonic() < end:
            connection = HTTPConnection(self._address, timeout=1)
            with contextlib.suppress(OSError, HTTPException), contextlib.closing(connection):
                connection.request("OPTIONS", path)
                if connection.getresponse().status != HTTPStatus.NOT_FOUND:
                    return
            time.sleep(_POLL_SECONDS)

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
