"""Several back-end processes of the same services, kept running: ``natsmesh serve --workers N``."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Sequence

from natsmesh.control import Control
from natsmesh.exits import Exit
from natsmesh.signals import StopSignal
from natsmesh.supervisor import Restart, Supervised
from natsmesh.worker import ServeOptions


def serve_command(targets: Sequence[str], options: ServeOptions) -> list[str]:
    """Return the command line of one worker process."""
    words = [sys.executable, "-m", "natsmesh", "serve", *targets, *options.mesh.arguments()]
    words += ["--grace", f"{options.grace:g}", "--service-version", options.version]
    words += ["--max-message", f"{options.max_message}B"]
    if options.concurrency is not None:
        words += ["--concurrency", str(options.concurrency)]
    if options.queue is not None:
        words += ["--queue", str(options.queue)]
    return words


def run_workers(targets: Sequence[str], options: ServeOptions, count: int) -> int:
    """Keep ``count`` workers running until a signal comes; return the exit code."""
    return asyncio.run(_run(serve_command(targets, options), options.grace, count))


async def _run(command: Sequence[str], grace: float, count: int) -> int:
    def forward(line: str) -> None:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

    def say(text: str) -> None:
        for line in text.splitlines():
            forward(f"natsmesh: {line}")

    workers = [
        Supervised(f"worker-{number}", command, forward, say, grace=grace) for number in range(1, count + 1)
    ]  # fmt: skip

    def kill() -> None:
        for worker in workers:
            worker.kill()

    control = Control.inherit()
    if control is not None:
        control.grace = grace
    stop = StopSignal(kill)
    stopping = asyncio.create_task(stop.wait())
    # The first one shows whether the services start at all; a mistake is told once, not once for each worker.
    running = {asyncio.create_task(workers[0].run())}
    ready = asyncio.create_task(workers[0].was_ready.wait())
    await asyncio.wait({stopping, ready, *running}, return_when=asyncio.FIRST_COMPLETED)
    if ready.done():
        running |= {asyncio.create_task(worker.run()) for worker in workers[1:]}
        if control is not None:
            control.ready()
    ready.cancel()
    rolling = asyncio.create_task(_roll_on_hangup(workers, say))
    await asyncio.wait({stopping, *running}, return_when=asyncio.FIRST_COMPLETED)
    given_up = [task.result() for task in running if task.done()]
    stopping.cancel()
    rolling.cancel()
    await asyncio.gather(*(worker.stop() for worker in workers))
    await asyncio.gather(rolling, *running, return_exceptions=True)
    if given_up:
        return next((code for code in given_up if code), Exit.FAILED)
    return Exit.FAILED if any(worker.last_exit for worker in workers) else Exit.OK


async def _roll_on_hangup(workers: Sequence[Supervised], say: Callable[[str], None]) -> None:
    """Replace the workers one after another at each SIGHUP."""
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, asked.set)
    while True:
        await asked.wait()
        asked.clear()
        say("replacing the workers one after another")
        for worker in workers:
            with contextlib.suppress(OSError):
                if await worker.restart() is Restart.KEPT:
                    say(f"{worker.name} was not replaced: its process from before goes on")
        say("the workers are replaced")
