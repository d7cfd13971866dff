"""``natsmesh gateway``: HTTP in front of everything on the mesh."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import signal
import ssl
import threading
import time
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from natsmesh.exits import Exit, Failure
from natsmesh.gateway_flags import ACCESS_LOG, FILE, HEADER, flag, given, named
from natsmesh.options import Mesh, mesh_options
from natsmesh.quantities import SECONDS, SIZE

if TYPE_CHECKING:
    from gateway.config import Config
    from natsmesh.control import Control

_READY_SECONDS = 30.0
_POLL_SECONDS = 0.02


@click.command("gateway")
@click.option(
    "--config",
    "config_file",
    metavar="FILE",
    envvar="NATSMESH_GATEWAY_CONFIG",
    show_envvar=True,
    type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path),
    help="Options in TOML, these and more; flags win over it.",
)
@flag("--port", "port", "0 takes a free one.", default="8080", type=click.IntRange(0, 65535))
@flag("--host", "host", "Address to listen on.", default="0.0.0.0")  # noqa: S104 - what it is for
@flag("--workers", "workers", "Processes on the port.", default="1", type=click.IntRange(1, 512))
@flag("--timeout", "timeout", "Deadline of a unary call whose client names none.", default="30s", type=SECONDS)
@flag("--max-timeout", "max_timeout", "Longest deadline that a client gets.", default="600s", type=SECONDS)
@flag("--stream-timeout", "stream_timeout", "Longest that a stream may last, else as both ends like.", type=SECONDS)
@flag("--heartbeat", "heartbeat", "Events get a comment, WebSockets a ping so often.", default="15s", type=SECONDS)
@flag(
    "--max-streams", "max_streams", "Streams at once in one process, else 503.", default="4096", type=click.IntRange(1)
)
@flag("--max-body", "max_body", "Else 413.", default="16MiB", type=SIZE)
@flag("--max-upload", "max_upload", "Bodies that pass in chunks, else 413; or the service decides.", type=SIZE)
@flag("--max-websocket-message", "max_websocket_message", "Else cut off.", default="4MiB", type=SIZE)
@flag("--max-response", "max_response", "Largest message that a service may answer.", default="32MiB", type=SIZE)
@flag("--max-held", "max_held", "What large bodies may hold together, else 503.", default="256MiB", type=SIZE)
@flag("--max-connections", "max_connections", "At once, else 503.", default="16384", type=click.IntRange(1))
@flag("--head-patience", "head_patience", "Longest for the head of a request.", default="10s", type=SECONDS)
@flag("--body-patience", "body_patience", "Longest pause in a body, else 408.", default="20s", type=SECONDS)
@flag("--write-patience", "write_patience", "Longest that a client may take nothing.", default="60s", type=SECONDS)
@flag("--keep-alive", "keep_alive", "Idle connections are closed after it.", default="75s", type=SECONDS)
@flag("--forward-header", "forward_headers", "Pass it on to services.", metavar="NAME", multiple=True)
@flag("--ignore-unknown", "ignore_unknown", "REST: pass over unknown fields instead of refusing them.", is_flag=True)
@flag(
    "--access-log",
    "access_log",
    "A line for each request: combined, json or text on standard output; alone, JSON among our own logs.",
    is_flag=False,
    flag_value="log",
    type=ACCESS_LOG,
)
@flag(
    "--access-log-file", "access_log_file", "Write it there instead.", type=click.Path(dir_okay=False, path_type=Path)
)
@flag("--cors-origin", "cors.origins", "Let pages of this origin call; * is all.", metavar="ORIGIN", multiple=True)
@flag("--cache", "cache.ttl", "Entity tags for GET without side effects, and how long answers are kept.", type=SECONDS)
@flag("--response-header", "response_headers.add", "For every response.", type=HEADER, multiple=True)
@flag("--metrics/--no-metrics", "metrics", "Serve /metrics for Prometheus.", default="metrics")
@flag("--docs/--no-docs", "docs.serve", "Serve /openapi.json, and /docs to try it all.", default="docs")
@flag("--operations/--no-operations", "operations", "Serve google.longrunning.Operations.", default="operations")
@flag("--reflection/--no-reflection", "reflection", "Serve gRPC server reflection.", default="reflection")
@flag("--health/--no-health", "health", "Serve grpc.health.v1 for each service.", default="health")
@flag("--compress/--no-compress", "compression.responses", "Compress for clients that take it.", default="compress")
@flag("--compress-from", "compression.minimum", "Smallest answer that is compressed.", default="1KiB", type=SIZE)
@flag("--tls-cert", "tls.certificate", "Serve TLS with this certificate and those of its chain, PEM.", type=FILE)
@flag("--tls-key", "tls.key", "Its private key, if that is in another file.", type=FILE)
@flag("--tls-key-password-file", "tls.key_password_file", "What the key is encrypted with.", type=FILE)
@flag("--tls-client-ca", "tls.client_ca", "Let in clients with certificates of these authorities.", type=FILE)
@flag(
    "--tls-client-cert",
    "tls.client_certificates",
    "With --tls-client-ca: whether clients must have one.",
    default="required",
    type=click.Choice(["required", "optional"]),
)
@flag("--tls-min-version", "tls.min_version", "Of TLS.", default="1.2", type=click.Choice(["1.2", "1.3"]))
@flag("--grace", "grace", "After SIGTERM or Ctrl-C: how long calls that run may go on.", default="30s", type=SECONDS)
@mesh_options()
def command(config_file: Path | None, mesh: Mesh, **flags: Any) -> int:
    """Serve every service on the mesh over HTTP: REST, Connect, gRPC-Web, gRPC.

    It learns them from the bus, and follows what comes and goes; nothing has to be configured.
    """
    from gateway.server import ListenError, run
    from gateway.tls import TlsError
    from natsmesh.control import Control

    control = Control.inherit()
    config, mesh = _configure(config_file, mesh, given(flags))
    if control is not None:
        control.grace = config.grace
        threading.Thread(target=_tell_ready, args=(control, config), daemon=True).start()
    try:
        asyncio.run(_check(mesh))
        mesh.export()
        return run(config, before_start=prepare_process)
    except TlsError as error:
        raise Failure(named(str(error)), Exit.USAGE) from error
    except ListenError as error:
        code = Exit.PORT_TAKEN if error.errno == errno.EADDRINUSE else Exit.FAILED
        raise Failure(f"{error.strerror or error} (--port)", code) from error


def _configure(config_file: Path | None, mesh: Mesh, flags: dict[tuple[str, ...], Any]) -> tuple[Config, Mesh]:
    """Put together what the file, the environment and the flags say, the last word first. Raises ``Failure``."""
    from gateway.config import Config, ConfigError
    from gateway.config_file import ConfigFileError, load_config, with_values

    source = click.get_current_context().get_parameter_source
    try:
        config = Config() if config_file is None else load_config(config_file, Config)
        if source("url") is not ParameterSource.DEFAULT or config.nats_url is None:
            flags["nats_url",] = mesh.url
        if mesh.credentials is not None:
            flags["credentials",] = mesh.credentials
        if source("prefix") is not ParameterSource.DEFAULT:
            flags["prefix",] = mesh.prefix
        timeout = flags.get(("timeout",), 0)
        if ("max_timeout",) not in flags and timeout > config.max_timeout:
            flags["max_timeout",] = timeout
        config = with_values(config, flags)
    except ConfigFileError as error:
        raise Failure(str(error), Exit.USAGE) from error
    except ConfigError as error:
        raise Failure(named(str(error)), Exit.USAGE) from error
    except OSError as error:
        raise Failure(f"--config {config_file}: {error.strerror or error}", Exit.USAGE) from error
    credentials = None if config.credentials is None else str(config.credentials)
    return config, Mesh(config.nats_url or mesh.url, credentials, config.prefix)


def prepare_process() -> None:
    """Prepare a process that serves: its logs, its telemetry, and that it does not outlive its parent."""
    import multiprocessing

    from natsmesh import garbage
    from natsmesh.shipping import ship_logs
    from rpc import __version__, telemetry

    instance = secrets.token_hex(8)
    telemetry.configure_logging()
    ship_logs("natsmesh-gateway", instance)
    telemetry.configure("natsmesh-gateway", instance_id=instance, version=__version__)
    garbage.settle()
    if (parent := multiprocessing.parent_process()) is not None:

        def end_with_parent() -> None:
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=end_with_parent, name="natsmesh-parent", daemon=True).start()


async def _check(mesh: Mesh) -> None:
    """Say at once, and clearly, when there is no broker."""
    connection = await mesh.connect("natsmesh gateway")
    await connection.close()


def _tell_ready(control: Control, config: Config) -> None:
    end = time.monotonic() + _READY_SECONDS
    host, port, tls = config.host, config.port, config.tls
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    unverified = ssl._create_unverified_context()  # noqa: S323, SLF001 - it is ourselves, under a name of our own
    while time.monotonic() < end:
        connection = HTTPConnection(address, port, timeout=1)
        if tls is not None:
            connection = HTTPSConnection(address, port, timeout=1, context=unverified)
        try:
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                control.ready(port=port)
                return
        except ssl.SSLError:
            if tls is not None and tls.wants_client_certificates:
                # Whoever asks for a certificate is up; and we have none.
                control.ready(port=port)
                return
        except (OSError, HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(_POLL_SECONDS)
