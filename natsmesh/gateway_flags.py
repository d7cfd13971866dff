"""Flags of ``natsmesh gateway``: each sets one option of ``gateway.Config``, and wins over the configuration file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


class _AccessLog(click.ParamType[Any]):
    name = "[FORMAT]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | bool:
        """Return a format, or True for our own log."""
        choices = ("combined", "json", "text")
        if value in choices:
            return str(value)
        if value not in ("log", True):
            self.fail(f"{value!r}: choose {', '.join(choices)}, or nothing", param, ctx)
        return True


class _Header(click.ParamType[Any]):
    name = "NAME:VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a pair."""
        if not isinstance(value, str):
            return value
        name, colon, text = value.partition(":")
        if not colon:
            self.fail(f"{value!r}: expected NAME: VALUE", param, ctx)
        return name.strip(), text.strip()


FILE = click.Path(dir_okay=False, path_type=Path)
"""Whether it can be read is said by whoever reads it."""
ACCESS_LOG = _AccessLog()
HEADER = _Header()


class Flag(click.Option):
    """Nothing when it is not given: then the file has its say, and then the default of ``Config``."""

    shown_default: str = ""


def flag(name: str, option: str, help: str, *, default: str = "", **more: Any) -> Callable[[F], F]:  # noqa: A002 - click's
    """Add a flag that sets ``option``, ``section.option`` for those in a section of their own.

    ``default`` is that of ``Config`` as text, to be shown. ``more`` is for ``click.option``.
    """
    shown = f"{help}  [default: {default}]" if default else help
    parameter = option.replace(".", "__")

    def add(function: F) -> F:
        return click.option(name, parameter, cls=Flag, default=None, help=shown, **more)(function)

    return add


def given(flags: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
    """Return the options that the command line sets, by their place in ``Config``."""
    return {
        tuple(name.split("__")): dict(value) if isinstance(value, tuple) and isinstance(value[0], tuple) else value
        for name, value in flags.items()
        if value is not None and value != ()
    }


def named(message: str) -> str:
    """Return the complaint of an option as one about the flag that set it."""
    context = click.get_current_context()
    for parameter in context.command.params:
        if isinstance(parameter, Flag) and parameter.name is not None:
            option = parameter.name.rpartition("__")[2]
            value = context.params.get(parameter.name)
            if message.startswith((f"{option} ", f"{option}:")) and value is not None:
                return parameter.opts[0] + message.removeprefix(option)
    return message
