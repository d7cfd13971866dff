"""Processes of a group that are killed: their events go to the others."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.events.conftest import World
from tests.events.stage import stage
from tests.waiting import until

ROOT = Path(__file__).parents[2]
GROUP = "stage_v1_Mail-OnPlaced"


class Processes:
    """Real processes that handle ``Placed``."""

    def __init__(self, world: World, code: Path, folder: Path) -> None:
        self._world, self._folder = world, folder
        self.environ = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "gen", code)))}
        self.running: list[subprocess.Popen[bytes]] = []
        self._number = 0

    def start(self) -> Path:
        """Start one, and return the file that it writes."""
        self._number += 1
        path = self._folder / f"ledger-{self._number}"
        path.touch()
        command = [sys.executable, "-m", "tests.events.process", self._world.url, self._world.prefix]
        self.running.append(subprocess.Popen([*command, str(path)], cwd=ROOT, env=self.environ))
        return path

    def kill(self, number: int = 0) -> None:
        process = self.running.pop(number)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def lines(self, what: str = "did") -> list[str]:
        """What all of them have written, of one kind."""
        found: list[str] = []
        for path in self._folder.glob("ledger-*"):
            found += [line.partition(" ")[2] for line in path.read_text().splitlines() if line.startswith(f"{what} ")]
        return found


@pytest.fixture
def processes(world: World, stage_code: Path, tmp_path: Path) -> Iterator[Processes]:
    processes = Processes(world, stage_code, tmp_path)
    yield processes
    while processes.running:
        processes.kill()


async def test_what_a_killed_process_had_goes_to_another_after_the_ack_wait(world: World, processes: Processes) -> None:
    processes.start()
    publisher = await world.publisher()
    await publisher.publish(stage.placed("hold-1"))
    await publisher.publish(stage.placed("hold-2"))
    await until(lambda: sorted(processes.lines("began")) == ["hold-1", "hold-2"])
    processes.kill()
    processes.start()
    loop = asyncio.get_running_loop()
    began = loop.time()
    await until(lambda: sorted(processes.lines()) == ["hold-1", "hold-2"])
    assert loop.time() - began < 5, "the ack_wait is 1 s"
    assert await until(lambda: world.settled(GROUP))
    assert not await world.dead_letters()


async def test_processes_killed_at_random_lose_nothing(world: World, processes: Processes) -> None:
    for _ in range(3):
        processes.start()
    publisher = await world.publisher()
    names = [str(number) for number in range(1000)]
    publishing = asyncio.gather(*(publisher.publish(stage.placed(name)) for name in names))
    for kills in range(1, 4):
        await until(lambda kills=kills: len(processes.lines()) > kills * 200)
        processes.kill()
        processes.start()
    await publishing
    await until(lambda: set(processes.lines()) == set(names), 20)
    assert await until(lambda: world.settled(GROUP))
    assert not await world.dead_letters()
    # At least once: twice only what a killed process was about, 4 at once and what it was settling.
    assert len(processes.lines()) - len(names) < 3 * 50


FORKS = """
import asyncio, os, sys
import rpc
from stage.v1 import stage_pb2

publisher = rpc.Publisher(sys.argv[1], prefix=sys.argv[2])  # as a module that is loaded before the workers are forked

async def publish():
    for number in range(10):
        await publisher.publish(stage_pb2.Placed(id=f"{os.getpid()}-{number}"))
    await publisher.close()

child = os.fork()
asyncio.run(publish())
if child:
    os.waitpid(child, 0)
"""


async def test_a_publisher_that_was_made_before_a_fork_gives_other_ids_in_each_process(
    world: World, processes: Processes
) -> None:
    command = [sys.executable, "-c", FORKS, world.url, world.prefix]
    run = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=processes.environ)
    assert await run.wait() == 0
    assert len(await world.stored()) == 20
