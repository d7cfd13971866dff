"""Child processes: their control line, their output, their end; and who is started again, when."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from natsmesh.exits import describe_exit
from natsmesh.process import ChildProcess
from natsmesh.supervisor import Backoff, Restart, Supervised
from tests.cli.commands import is_alive

READY = "from natsmesh.control import Control\ncontrol = Control.inherit()\ncontrol.ready(number=1)\n"
SLEEP = "import time\ntime.sleep(60)\n"


@asynccontextmanager
async def child(program: str) -> AsyncIterator[ChildProcess]:
    process = ChildProcess("child", [sys.executable, "-c", program], lambda line: None)
    await process.start()
    try:
        yield process
    finally:
        process.kill()
        await process.wait()


async def test_output_and_exit_code_are_remembered() -> None:
    async with child("import sys\nprint('one')\nprint('two', file=sys.stderr, end='')\nsys.exit(7)") as process:
        assert await process.wait() == 7
        assert list(process.tail) == ["one", "two"]
        assert not process.is_ready


async def test_it_tells_when_it_is_ready_and_what_it_has_loaded() -> None:
    inherit, _, ready = READY.rpartition("control.ready")
    program = f"{inherit}print(repr(open(0).read()), flush=True)\ncontrol.ready{ready}{SLEEP}"
    async with child(program) as process:
        assert await process.wait_ready(10)
        assert process.facts == {"number": 1}
        assert any(file.endswith("natsmesh/control.py") for file in await process.files())
        begun = time.monotonic()
        assert await process.stop(5) == -15
        assert time.monotonic() - begun < 2
        assert list(process.tail) == ["''"], "its standard input is empty, not our control line"


async def test_files_are_told_even_when_it_is_busy() -> None:
    async with child(READY + "while True: pass\n") as process:
        assert await process.wait_ready(10)
        assert await process.files()


async def test_one_that_does_not_want_to_end_is_made_to() -> None:
    program = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + READY + SLEEP
    async with child(program) as process:
        assert await process.wait_ready(10)
        assert await process.stop(0.1) == -9


async def test_a_grandchild_that_keeps_the_output_open_does_not_hold_us_up() -> None:
    async with child("import subprocess\nprint(subprocess.Popen(['sleep', '30']).pid)") as process:
        begun = time.monotonic()
        assert await process.wait() == 0
        assert time.monotonic() - begun < 5


async def test_it_ends_when_its_supervisor_is_gone() -> None:
    program = f"""
import asyncio, sys
from natsmesh.process import ChildProcess
async def main():
    process = ChildProcess("child", [sys.executable, "-c", {READY + SLEEP!r}], print)
    await process.start()
    await process.wait_ready(10)
    print(process.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    async with child(program) as supervisor:
        while not supervisor.tail:
            await asyncio.sleep(0.02)
        pid = int(supervisor.tail[0])
        assert is_alive(pid)
        supervisor.kill()
        async with asyncio.timeout(10):
            while is_alive(pid):
                await asyncio.sleep(0.02)


def test_the_back_off_doubles_up_to_ten_seconds_and_forgets_after_a_good_run() -> None:
    backoff = Backoff()
    assert [backoff.after(0.0) for _ in range(9)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    assert backoff.after(11.0) == 0.1


@pytest.mark.parametrize(
    ("code", "text"), [(3, "exit code 3"), (-15, "ended by SIGTERM"), (-9, "SIGKILL (out of"), (-99, "signal 99")]
)
def test_the_end_is_described(code: int, text: str) -> None:
    assert text in describe_exit(code)


async def test_a_broken_one_waits_for_a_change_and_a_running_one_is_replaced_without_a_gap(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("import sys\nsys.exit(2)\n")
    said: list[str] = []
    supervised = Supervised(
        "it", [sys.executable, str(program)], lambda line: None, said.append, grace=2, wait_for_change=True
    )
    running = asyncio.create_task(supervised.run())
    try:
        async with asyncio.timeout(20):
            while "it waits for a change of its code" not in said:
                await asyncio.sleep(0.01)
            program.write_text(READY + SLEEP)
            assert await supervised.restart() is Restart.STARTED
            await supervised.was_ready.wait()
            first = supervised.child
            assert first is not None

            program.write_text("import sys\nsys.exit(2)\n")
            assert await supervised.restart() is Restart.KEPT
            assert supervised.child is first
            assert first.is_ready, "the old one goes on"

            program.write_text(READY + SLEEP)
            assert await supervised.restart() is Restart.REPLACED
            assert supervised.child is not first
            assert supervised.is_ready
            assert first.exit_code is not None
    finally:
        await supervised.stop()
        assert await running == 0


async def test_a_replacement_that_hangs_while_it_starts_gives_way_to_the_next_one(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(READY + SLEEP)
    printed: list[str] = []
    supervised = Supervised("it", [sys.executable, str(program)], printed.append, lambda line: None, grace=2)
    running = asyncio.create_task(supervised.run())
    try:
        async with asyncio.timeout(20):
            await supervised.was_ready.wait()
            first = supervised.child
            program.write_text("print('hanging')\n" + SLEEP)
            hanging = asyncio.create_task(supervised.restart())
            while "hanging" not in printed:
                await asyncio.sleep(0.01)
            program.write_text(READY + SLEEP)
            assert await supervised.restart() is Restart.REPLACED
            assert await hanging is Restart.SUPERSEDED
            assert supervised.child is not first
            assert supervised.is_ready
    finally:
        await supervised.stop()
        assert await running == 0


async def test_what_cannot_be_started_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    supervised = Supervised("it", [str(tmp_path / "nothing")], lambda line: None, said.append, grace=2)
    assert await supervised.run() == 127
    assert "it cannot be started" in said[0]
