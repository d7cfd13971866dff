"""A development session: broker, gateway and services, their logs merged, their sources watched."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from natsmesh.dev.broker import DevBroker
from natsmesh.dev.finding import SERVICES, Process, find_modules, processes
from natsmesh.dev.watching import SourceWatcher
from natsmesh.exits import Exit, Failure
from natsmesh.lines import Terminal
from natsmesh.options import Mesh
from natsmesh.process import ChildProcess
from natsmesh.project import configured_services, service_version
from natsmesh.protoc import ProtoTree
from natsmesh.servicers import GENERATED
from natsmesh.signals import StopSignal
from natsmesh.supervisor import START_SECONDS, Restart, Supervised
from natsmesh.worker import ServeOptions
from natsmesh.workers import serve_command

if TYPE_CHECKING:
    from natsmesh.dev.hints import Hints

NAME = "natsmesh"
PROTOS = "proto"

_KNOWN_SECONDS = 3.0
"""How long the bus may take to tell us about services that run."""

_LOCAL = {"127.0.0.1", "::1", "0.0.0.0", "::"}  # noqa: S104 - compared, not bound


@dataclass(frozen=True, slots=True)
class DevOptions:
    """What to start. ``mesh.url`` empty: the bundled broker, on ``nats_port``."""

    mesh: Mesh
    targets: tuple[str, ...]
    host: str
    port: int
    nats_port: int
    store_dir: str | None
    grace: float
    watch: bool


class DevSession:
    """Starts it all, reloads what is saved, and stops it all in the order that loses no call."""

    def __init__(self, options: DevOptions, folder: Path, terminal: Terminal) -> None:
        self._options = options
        self._folder = folder
        self._terminal = terminal
        self._mesh = options.mesh
        self._protos = ProtoTree(folder / PROTOS, folder / GENERATED)
        self._watcher = SourceWatcher(folder)
        self._broker: DevBroker | None = None
        self._gateway: Supervised | None = None
        self._services: dict[Process, Supervised] = {}
        self._runs: dict[Supervised, asyncio.Task[int]] = {}
        self._reloads: set[asyncio.Task[object]] = set()
        self._hints: Hints | None = None
        self._follows_folder = False

    async def run(self) -> int:
        """Run until a signal comes; return the exit code. Raises ``Failure`` when it cannot start."""
        stop = StopSignal(self._kill)
        targets = self._targets()
        self._check_port()
        work = asyncio.create_task(self._work(targets), name="natsmesh-dev")
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if stopping.done():
                self._terminal.line(NAME, "stopping")
                return Exit.OK
            return await work
        finally:
            stopping.cancel()
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            await self._stop()
            if stop.is_set:
                self._terminal.line(NAME, "stopped")

    # --------------------------------------------------------------------------------------------------- start

    def _targets(self) -> list[str]:
        targets = list(self._options.targets) or configured_services()
        if not targets:
            targets = find_modules(self._folder)
            self._follows_folder = True
        if not targets and not (self._folder / PROTOS).is_dir():
            raise Failure(
                f"{self._folder} has no services: name them (natsmesh dev services.greeter:Greeter), list them in"
                " pyproject.toml ([tool.natsmesh] services = [...]), or put them into services/",
                Exit.USAGE,
            )
        return targets

    def _check_port(self) -> None:
        host, port = self._options.host, self._options.port
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise Failure(
                    f"the gateway cannot listen on {host}:{port}: {error.strerror}. Stop what listens there, or choose"
                    " another port (--port)",
                    Exit.PORT_TAKEN,
                ) from error
            if port == 0:
                self._options = replace(self._options, port=probe.getsockname()[1])

    async def _work(self, targets: list[str]) -> int:
        self._watch(PROTOS)
        generated = asyncio.create_task(self._generate(self._protos.stale()))
        await self._start_broker()
        gateway = self._start_gateway()
        await generated
        self._watch(
            GENERATED, *({SERVICES} if self._follows_folder else {target.partition(".")[0] for target in targets})
        )
        for process in processes(targets):
            self._start_service(process)
        jobs = [asyncio.create_task(self._guide(gateway))]
        if self._options.watch:
            jobs.append(asyncio.create_task(self._follow_sources()))
        try:
            done, _ = await asyncio.wait([self._runs[gateway], *jobs], return_when=asyncio.FIRST_COMPLETED)
            return next((code for task in done if (code := task.result())), Exit.FAILED)
        finally:
            for task in [*jobs, *self._reloads]:
                task.cancel()
            await asyncio.gather(*jobs, *self._reloads, return_exceptions=True)

    async def _start_broker(self) -> None:
        if self._mesh.url:
            connection = await self._mesh.connect("natsmesh dev")
            await connection.close()
            return
        self._broker = DevBroker(self._options.nats_port, self._options.store_dir, self._terminal)
        await self._broker.start()
        self._mesh = replace(self._mesh, url=self._broker.url)

    def _start_gateway(self) -> Supervised:
        options = self._options
        words = [sys.executable, "-m", "natsmesh", "gateway", "--host", options.host, "--port", str(options.port)]
        words += ["--grace", f"{options.grace:g}", *self._mesh.arguments()]
        receive = self._terminal.receiver("gateway")
        gateway = self._gateway = Supervised("gateway", words, receive, self._say, grace=options.grace)
        self._runs[gateway] = asyncio.create_task(gateway.run())
        return gateway

    def _start_service(self, process: Process) -> None:
        options = ServeOptions(self._mesh, grace=self._options.grace, version=service_version())
        service = Supervised(
            process.name,
            serve_command(process.targets, options),
            self._terminal.receiver(process.name),
            self._say,
            grace=self._options.grace,
            wait_for_change=True,
            on_ready=self._service_ready,
        )
        self._services[process] = service
        self._runs[service] = asyncio.create_task(service.run())

    def _watch(self, *folders: str) -> None:
        """Watch folders from now on: before anything is started that loads what is in them."""
        for name in folders:
            self._watcher.add_folder(self._folder / name)

    def _service_ready(self, child: ChildProcess) -> None:
        self._spawn(self._learn_files(child))

    async def _learn_files(self, child: ChildProcess) -> None:
        self._watcher.add_loaded(await child.files(), child.started)

    # ---------------------------------------------------------------------------------------------------- guide

    async def _guide(self, gateway: Supervised) -> int:
        """Print what can be called, once it can be, and whenever that changes."""
        import rpc
        from natsmesh.dev.hints import Hints

        connection = await self._mesh.connect("natsmesh dev")
        hints = Hints(self._terminal, self._address())
        changed: asyncio.Queue[rpc.ServiceView] = asyncio.Queue()
        watcher = rpc.ServiceWatcher(connection, changed.put_nowait, prefix=self._mesh.prefix)
        try:
            await watcher.start()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(START_SECONDS):
                    for each in (gateway, *self._services.values()):
                        await each.was_started.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_KNOWN_SECONDS):
                    await watcher.ready.wait()
                    while not self._expected() <= {view.name for view in watcher.services.values() if view.schema}:
                        await changed.get()
            self._welcome()
            await hints.overview(watcher.services.values())
            self._farewell()
            while True:
                await hints.changed(await changed.get())
        finally:
            await watcher.close()
            await connection.close()

    def _expected(self) -> set[str]:
        """Return the services that the running processes say they serve."""
        ready = [service.child for service in self._services.values() if service.child is not None and service.is_ready]
        return {str(name) for child in ready for name in child.facts.get("services", ())}

    def _welcome(self) -> None:
        say = self._terminal
        say.plain()
        say.heading(f"natsmesh is up: http://{self._address()}, NATS at {self._mesh.url}")
        say.plain(f"  Read about it and try it in a browser: http://{self._address()}/docs")
        if broken := [service.name for service in self._services.values() if not service.is_ready]:
            say.error(NAME, f"not running, see above: {', '.join(broken)}")

    def _address(self) -> str:
        """The gateway's address as people on this machine write it."""
        host = self._options.host
        if host in _LOCAL:
            host = "localhost"
        return f"[{host}]:{self._options.port}" if ":" in host else f"{host}:{self._options.port}"

    def _farewell(self) -> None:
        say = self._terminal
        say.plain()
        watched = "A saved .proto is compiled, a saved service is reloaded. " if self._options.watch else ""
        say.plain(f"{watched}Ctrl-C stops everything.")
        say.plain()

    # --------------------------------------------------------------------------------------------------- reload

    async def _follow_sources(self) -> int:
        async for changed in self._watcher.changes():
            protos = {path for path in changed if path.suffix == ".proto" and self._protos.protos in path.parents}
            if protos:
                await self._compile(protos)
            if sources := {path for path in changed if path.suffix == ".py"}:
                await self._reload(sources)
        return Exit.FAILED

    async def _compile(self, protos: set[Path]) -> None:
        if saved := self._protos.remove_gone(protos):
            self._say(f"{self._names(saved)} saved")
            commented = await self._generate(self._protos.with_importers(saved))
            self._watch(GENERATED)
            if commented:
                await self._reload(set(commented))  # Services announce the comments, like all of their schemas.

    async def _generate(self, files: list[Path]) -> list[Path]:
        """Generate code; return the modules that are the same as before but for the comments of their ``.proto``."""
        outcome = await self._protos.generate(files)
        if outcome.errors:
            self._terminal.error(NAME, outcome.errors)
            self._terminal.error(NAME, "the code generated before stays in use until this is corrected")
        elif outcome.written:
            self._say(f"code generated for {self._names(files)}")
        return outcome.commented

    async def _reload(self, sources: set[Path]) -> None:
        """Restart the services that have loaded one of these files, and those that do not run."""
        if self._follows_folder:
            self._follow_folder()
        services = list(self._services.values())
        loaded = await asyncio.gather(*(self._loaded(service) for service in services))
        for service, files in zip(services, loaded, strict=True):
            if not service.is_ready or files & sources:
                self._spawn(self._restart(service, sources & files if service.is_ready else sources))

    async def _loaded(self, service: Supervised) -> set[Path]:
        return _resolved(await service.child.files()) if service.child is not None else set()

    async def _restart(self, service: Supervised, because: set[Path]) -> None:
        self._say(f"{self._names(because)} saved: {service.name} is restarted")
        if await service.restart() is Restart.KEPT:
            self._terminal.error(NAME, f"{service.name} goes on with the code from before")

    def _follow_folder(self) -> None:
        """Start the services that are new in the folder, stop those that are gone."""
        wanted = processes(find_modules(self._folder))
        for process in [each for each in self._services if each.targets not in {other.targets for other in wanted}]:
            service = self._services.pop(process)
            self._runs.pop(service)
            self._spawn(service.stop())
        running = {process.targets for process in self._services}
        for process in wanted:
            if process.targets not in running:
                self._start_service(process)

    # ----------------------------------------------------------------------------------------------------- stop

    async def _stop(self) -> None:
        """First who accepts requests, then who answers them, then the bus between them."""
        if self._gateway is not None:
            await self._gateway.stop()
        await asyncio.gather(*(service.stop() for service in self._services.values()))
        await asyncio.gather(*self._runs.values(), return_exceptions=True)
        if self._broker is not None:
            await self._broker.stop()

    def _kill(self) -> None:
        for each in self._runs:
            each.kill()
        if self._broker is not None:
            self._broker.kill()

    # -------------------------------------------------------------------------------------------------- helpers

    def _spawn(self, work: Coroutine[None, None, object]) -> None:
        task = asyncio.create_task(work)
        self._reloads.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[object]) -> None:
        self._reloads.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._terminal.error(NAME, f"{type(error).__name__}: {error}")

    def _say(self, text: str) -> None:
        for line in text.splitlines():
            self._terminal.line(NAME, line)

    def _names(self, files: Iterable[Path]) -> str:
        names = sorted(str(path.relative_to(self._folder)) for path in files if self._folder in path.parents)
        shown = ", ".join(names[:3])
        return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _resolved(files: Iterable[str]) -> set[Path]:
    return {Path(file).resolve() for file in files}
