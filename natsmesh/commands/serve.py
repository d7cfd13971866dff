"""``natsmesh serve``: back-ends, in this process or in several that are kept running."""

from __future__ import annotations

import click

from natsmesh.options import Mesh, grace_option, mesh_options
from natsmesh.quantities import SIZE


@click.command("serve")
@click.argument("targets", nargs=-1, required=True, metavar="MODULE:CLASS...")
@click.option(
    "--workers",
    type=click.IntRange(1, 512),
    help="Start so many processes and keep them running. Without it, this process serves by itself.",
)
@click.option("--concurrency", type=click.IntRange(1), help="Calls that one process runs at once.")
@click.option("--queue", type=click.IntRange(0), help="Calls that wait in one process; others go elsewhere.")
@click.option(
    "--max-message",
    type=SIZE,
    default="32MiB",
    show_default=True,
    help="Largest request; beyond it RESOURCE_EXHAUSTED.",
)
@click.option("--service-version", default=None, metavar="X.Y.Z", help="Announced version; default: pyproject.toml's.")
@grace_option(10.0)
@mesh_options()
def command(
    targets: tuple[str, ...],
    workers: int | None,
    concurrency: int | None,
    queue: int | None,
    max_message: float,
    service_version: str | None,
    grace: float,
    mesh: Mesh,
) -> int:
    """Serve gRPC servicers over NATS: services.greeter:Greeter, for example.

    MODULE:CLASS is a class that implements a generated XServicer (or a function that makes one); MODULE alone means all
    such classes in it. The folder you are in and its gen/ are importable. Every process that serves a class is one more
    back-end, wherever it runs. With --workers, SIGHUP replaces the workers one after another, without losing a call.
    """
    from natsmesh.project import service_version as default_version
    from natsmesh.worker import ServeOptions, run_worker

    version = service_version or default_version()
    options = ServeOptions(mesh, concurrency, queue, grace, version, int(max_message))
    if workers is None:
        return run_worker(targets, options)

    from natsmesh.workers import run_workers

    return run_workers(targets, options, workers)
