"""``natsmesh protos``."""

from __future__ import annotations

import os

import click


@click.command("protos")
def command() -> None:
    """Print where protoc finds mesh/v1/*.proto, google/api, google/longrunning: what its option -I takes.

    python -m grpc_tools.protoc -Iproto -I"$(natsmesh protos)" --python_out=gen --grpc_python_out=gen FILES
    """
    from natsmesh.protos import includes

    click.echo(os.pathsep.join(includes()))
