"""Serving a gateway: uvicorn with zttp (HTTP/1.1 and h2c on one port) on uvloop, in one process or in several.

Workers share one listening socket, which their parent opens: a taken port is found before anything starts, and a
worker that stops takes no connection with it that nobody has accepted yet.
"""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import uvicorn
from uvicorn.lifespan.on import LifespanOn
from uvicorn.supervisors import Multiprocess

from gateway.app import Gateway
from gateway.asgi import AsgiApp
from gateway.config import Config
from gateway.filters import application
from gateway.http_protocol import HttpProtocol, websocket_protocol
from gateway.open_files import with_room
from gateway.patience import PatientConfig
from gateway.tls import Certificates

logger = logging.getLogger(__name__)

EXIT_OK = 0
EXIT_FAILED = 1

BACKLOG = 2048
"""Connections that wait to be accepted."""


class ListenError(OSError):
    """The address cannot be listened on; the text says why and what to do."""


def run(config: Config, *, before_start: Callable[[], None] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; requests under way then have ``config.grace`` seconds to finish.

    ``before_start`` is called in each process that serves, before anything else there (to configure logging and
    telemetry); with several workers it must be importable. Returns an exit code. Raises ``ListenError``, ``TlsError``.
    """
    if config.tls is not None:
        Certificates(config.tls).check()
    config = with_room(config)
    listener = listen(config)
    try:
        if config.workers == 1:
            return _serve(config, listener, before_start)
        with tempfile.TemporaryDirectory(prefix="natsmesh-gateway-") as directory:
            return _supervise(dataclasses.replace(config, worker_directory=Path(directory)), listener, before_start)
    finally:
        listener.close()


def listen(config: Config) -> socket.socket:
    """Return a socket that listens where the configuration says. Raises ``ListenError``."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((config.host, config.port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ListenError(error.errno, _why_not(error, config)) from error
    listener.setblocking(False)
    return listener


def _why_not(error: OSError, config: Config) -> str:
    where = f"{config.host}:{config.port}"
    if error.errno == errno.EADDRINUSE:
        return f"{where} is in use by another process: stop it, or choose another port"
    if error.errno == errno.EACCES:
        return f"{where} may not be listened on: ports below 1024 need a privilege, choose a higher one"
    return f"cannot listen on {where}: {error.strerror or error}"


def server_config(config: Config, before_start: Callable[[], None] | None) -> uvicorn.Config:
    """Return how uvicorn is to serve a gateway."""
    return _ServerConfig(
        partial(_application, config, before_start),
        factory=True,
        host=config.host,
        port=config.port,
        http=HttpProtocol,
        loop="uvloop" if sys.platform != "win32" else "auto",
        ws=websocket_protocol,
        ws_max_size=config.max_websocket_message,
        ws_ping_interval=config.heartbeat,
        ws_ping_timeout=config.write_patience,
        ws_per_message_deflate=False,  # A few kB would become many messages of the largest size.
        lifespan="on",
        interface="asgi3",
        workers=config.workers,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        ssl_context_factory=Certificates(config.tls) if config.tls is not None else None,
        timeout_keep_alive=max(1, round(config.keep_alive)),
        timeout_graceful_shutdown=max(1, round(config.grace)),
        head_patience=config.head_patience,
        write_patience=config.write_patience,
        max_connections=config.max_connections,
    )


class _ServerConfig(PatientConfig):
    def load(self) -> None:
        """Load what the configuration names, in the process that serves."""
        super().load()
        if self.ssl_context_factory is not None:
            self.lifespan_class = _TlsLifespan


class _TlsLifespan(LifespanOn):
    """The life of a server with certificates: meanwhile new ones come into use."""

    _watcher: asyncio.Task[None] | None = None

    async def startup(self) -> None:
        """As without certificates, then begin to watch them."""
        certificates = self.config.ssl_context_factory
        assert isinstance(certificates, Certificates)  # noqa: S101 - by server_config
        loop = asyncio.get_running_loop()
        if hasattr(signal, "SIGHUP") and threading.current_thread() is threading.main_thread():
            loop.add_signal_handler(signal.SIGHUP, certificates.reload)
        await super().startup()
        if not self.should_exit:
            self._watcher = loop.create_task(certificates.watch(), name="gateway-certificates")

    async def shutdown(self) -> None:
        """Stop watching."""
        if self._watcher is not None:
            self._watcher.cancel()
            with suppress(asyncio.CancelledError):
                await self._watcher
        await super().shutdown()


def _application(config: Config, before_start: Callable[[], None] | None) -> AsgiApp:
    if before_start is not None:
        before_start()
    return application(Gateway(config), config)


def _serve(config: Config, listener: socket.socket, before_start: Callable[[], None] | None) -> int:
    server = uvicorn.Server(server_config(config, before_start))
    # uvicorn raises the signal again that it stopped for, once it has stopped: then it has done its work.
    restore = {each: signal.signal(each, signal.SIG_IGN) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run(sockets=[listener])
    except SystemExit:
        return EXIT_FAILED  # uvicorn's word for a lifespan that failed; it has logged why.
    finally:
        for each, handler in restore.items():
            signal.signal(each, handler)
    return EXIT_OK if server.started else EXIT_FAILED


def _supervise(config: Config, listener: socket.socket, before_start: Callable[[], None] | None) -> int:
    _Workers(server_config(config, before_start), sockets=[listener]).run()
    return EXIT_OK


class _Workers(Multiprocess):
    def terminate_all(self) -> None:
        """Stop listening, then stop the workers: what we alone still accepted, nobody would ever serve."""
        for listener in self.sockets:
            listener.close()
        super().terminate_all()

    def handle_hup(self) -> None:
        """Let workers read their certificates again; without TLS they are replaced one by one, as uvicorn does."""
        if self.config.ssl_context_factory is None:
            super().handle_hup()
            return
        for process in self.processes:
            # One that has just started has read them, and is not ready for the signal yet.
            if process.pid is not None and process.is_ready():
                os.kill(process.pid, signal.SIGHUP)
