"""Options that several subcommands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rpc import Connection

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_URL = "nats://127.0.0.1:4222"
_SCHEMES = {"nats", "tls", "ws", "wss"}


@dataclass(frozen=True, slots=True)
class Mesh:
    """Which mesh a command works on: the broker, who we are to it, and the prefix of the mesh's subjects."""

    url: str
    credentials: str | None
    prefix: str

    async def connect(self, name: str) -> Connection:
        """Return a connection that is up. Raises ``Failure`` that says how to get one."""
        import rpc
        from natsmesh.exits import Exit, Failure

        try:
            return await rpc.connect(self.url, name=name, credentials=self.credentials)
        except ConnectionError as error:
            raise Failure(f"{error}\n{self.hint()}", Exit.UNREACHABLE) from error

    def hint(self) -> str:
        """What to do when the broker does not answer."""
        if os.environ.get("NATS_URL") == self.url:
            return "NATS_URL points there: correct it, or unset it to use a broker on this machine (`natsmesh broker`)."
        return "Start a broker (`natsmesh broker`), or name one with --nats or NATS_URL."

    def export(self) -> None:
        """Make it the mesh of this process: channels that services make themselves use it too."""
        os.environ["NATS_URL"] = self.url
        if self.credentials is not None:
            os.environ["NATS_CREDS"] = self.credentials
        os.environ["NATSMESH_PREFIX"] = self.prefix

    def arguments(self) -> list[str]:
        """Return it as arguments for a process of ours."""
        words = ["--nats", self.url, "--prefix", self.prefix]
        return words if self.credentials is None else [*words, "--creds", self.credentials]


def mesh_options(default: str | None = DEFAULT_URL) -> Callable[[F], F]:
    """Add ``--nats``, ``--creds`` and ``--prefix``; the command gets a ``Mesh`` as its argument ``mesh``.

    With None for ``default`` a command that is given no URL gets a ``Mesh`` without one.
    """
    return lambda function: _mesh_options(function, default)


def _mesh_options(function: F, default: str | None) -> F:
    @click.option(
        "--nats",
        "url",
        metavar="URL",
        envvar="NATS_URL",
        show_envvar=True,
        default=default,
        show_default=default is not None,
        callback=_check_url,
        help="The broker; several of a cluster, separated by commas.",
    )
    @click.option(
        "--creds",
        "credentials",
        metavar="FILE",
        envvar="NATS_CREDS",
        show_envvar=True,
        type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path),
        help="Credentials file (.creds) for the broker.",
    )
    @click.option(
        "--prefix",
        metavar="NAME",
        envvar="NATSMESH_PREFIX",
        show_envvar=True,
        default="",
        callback=_check_prefix,
        help="Prefix of all subjects: separates meshes on one NATS account.",
    )
    @wraps(function)
    def command(*args: Any, url: str | None, credentials: Path | None, prefix: str, **kwargs: Any) -> Any:
        mesh = Mesh(url or "", None if credentials is None else str(credentials), prefix)
        return function(*args, mesh=mesh, **kwargs)

    return command  # type: ignore[return-value]  # the same command, with options added


def json_option(function: F) -> F:
    """Add ``--json``; the command gets ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(function)


def timeout_option(default: float) -> Callable[[F], F]:
    """Add ``--timeout``, in seconds."""
    return click.option(
        "--timeout",
        metavar="SECONDS",
        type=click.FloatRange(0, 86400, min_open=True),
        default=default,
        show_default=True,
        help="How long to wait for an answer.",
    )


def grace_option(default: float) -> Callable[[F], F]:
    """Add ``--grace``, in seconds."""
    return click.option(
        "--grace",
        metavar="SECONDS",
        type=click.FloatRange(0, 3600),
        default=default,
        show_default=True,
        help="After SIGTERM or Ctrl-C: how long calls that run may go on. A second Ctrl-C ends at once.",
    )


def _check_url(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    from urllib.parse import urlsplit

    if value is None:
        return None

    for part in value.split(","):
        url = part.strip()
        try:
            parts = urlsplit(url if "://" in url else f"nats://{url}")
            valid = parts.scheme in _SCHEMES and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        except ValueError:
            valid = False
        if not valid:
            raise click.BadParameter(f"{url!r} is no NATS address; expected e.g. {DEFAULT_URL}")
    return value


def _check_prefix(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if value:
        from rpc.subjects import check_name

        try:
            check_name(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error
    return value
