"""``natsmesh jobs`` and ``natsmesh events``, with workers as processes."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rpc.embedded import Broker
from tests.cli.commands import Commands, closing
from tests.generated import compile_contract
from tests.jobs.lab import LAB

WORKER = """
import asyncio, grpc
from google.protobuf import empty_pb2
from lab.v1 import lab_pb2, lab_pb2_grpc
from pathlib import Path

class Lab(lab_pb2_grpc.LabServicer):
    async def Work(self, request, context):
        if request.what == "bad" and not Path("mended").exists():
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "that is bad")
        if request.what == "slow":
            for percent in (25, 50, 75):
                await context.report(lab_pb2.Progress(percent=percent))
                await asyncio.sleep(0.2)
        if request.what == "hang":
            await asyncio.sleep(3600)
        return lab_pb2.WorkResponse(done=request.what, attempt=context.attempt)

class Shop(lab_pb2_grpc.ShopServicer):
    async def OnDone(self, request, context):
        with open("shop", "a") as journal:
            print(request.what, file=journal)
        if request.what == "bad" and not Path("mended").exists():
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a bad event")
        return empty_pb2.Empty()

    async def StoreDone(self, requests, context):
        async for _ in requests:
            pass
        return empty_pb2.Empty()
"""

ENQUEUE = """
import asyncio, sys
sys.path.insert(0, "gen")
import rpc
from lab.v1 import lab_pb2, lab_pb2_grpc

async def main(kind, *whats):
    async with rpc.Channel() as channel, rpc.Publisher() as publisher:
        stub = lab_pb2_grpc.LabStub(channel)
        for what in whats:
            if kind == "events":
                await publisher.publish(lab_pb2.Done(what=what))
            else:
                later = (("natsmesh-run-at", "2030-01-01T00:00:00Z"),) if what == "later" else ()
                print((await stub.Work(lab_pb2.WorkRequest(what=what), metadata=later)).name)

asyncio.run(main(*sys.argv[1:]))
"""


class Lab:
    """A project with workers, and commands that look at it."""

    def __init__(self, commands: Commands) -> None:
        self.commands = commands
        self.folder = commands.folder

    def enqueue(self, *whats: str) -> list[str]:
        """Make jobs; return the names of their operations."""
        return self._python("jobs", *whats).split()

    def publish(self, *whats: str) -> None:
        self._python("events", *whats)

    def _python(self, *words: str) -> str:
        return subprocess.run(
            [sys.executable, "enqueue.py", *words],
            cwd=self.folder,
            env={**os.environ, **self.commands.variables},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    def run(self, *words: str, code: int = 0, **options: Any) -> str:
        result = self.commands.run(*words, **options)
        assert result.returncode == code, result.stderr
        return result.stdout if code == 0 or result.stdout else result.stderr

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json"))

    def states(self) -> dict[str, str]:
        return {job["name"]: job["state"] for job in self.json("jobs", "list")}

    def got(self) -> list[str]:
        file = self.folder / "shop"
        return file.read_text().split() if file.exists() else []


def until(condition: Callable[[], Any]) -> None:
    limit = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


@pytest.fixture
def here(nats_url: str, tmp_path: Path) -> Iterator[Lab]:
    folder = tmp_path / "project"
    folder.mkdir()
    compile_contract(LAB, folder)
    (folder / "services").mkdir()
    (folder / "services/__init__.py").touch()
    (folder / "services/labs.py").write_text(WORKER)
    (folder / "enqueue.py").write_text(ENQUEUE)
    with closing(Commands(folder, NATS_URL=nats_url, NATSMESH_PREFIX=f"cli{time.time_ns()}")) as commands:
        yield Lab(commands)


def test_a_queue_before_and_after_its_workers(here: Lab) -> None:
    assert "there are no jobs" in here.commands.run("jobs", "list").stderr
    bad, good, later = here.enqueue("bad", "good", "later")
    lines = here.run("jobs", "list").splitlines()
    assert lines[0].split() == ["NAME", "STATE", "ATTEMPT", "AGE", "NEXT", "ERROR"]
    assert re.match(rf"{bad} +QUEUED +0 +[\d.]+ s +-$", lines[1])
    assert re.match(rf"{later} +SCHEDULED +0 +[\d.]+ s +in \d+ d$", lines[3])
    assert here.run("jobs", "list", "--limit", "1").count("\n") == 2
    assert [job["name"] for job in here.json("jobs", "list", "lab.v1.Lab/Work", "--state", "scheduled")] == [later]
    assert here.json("jobs", "list", "lab.v1.Lab/Many") == []
    here.commands.start("serve", "services.labs:Lab").says("serving")
    until(lambda: here.states() == {bad: "FAILED", good: "SUCCEEDED", later: "SCHEDULED"})
    shown = here.json("jobs", "show", good)
    assert (shown["state"], shown["attempt"], shown["response"]) == ("SUCCEEDED", 1, {"done": "good", "attempt": 1})
    (letter,) = here.json("jobs", "list", "--dead")
    assert (letter["name"], letter["error"]["code"]) == (bad, "INVALID_ARGUMENT")
    text = here.run("jobs", "show", bad)
    for part in ("FAILED", "INVALID_ARGUMENT: that is bad", "failed attempts", '"what": "bad"'):
        assert part in text
    # Mended, it is put back, and its operation goes on.
    (here.folder / "mended").touch()
    assert "put back" in here.run("jobs", "retry", bad)
    until(lambda: here.states()[bad] == "SUCCEEDED")
    assert here.json("jobs", "list", "--dead") == []
    assert here.json("jobs", "show", bad)["response"] == {"done": "bad", "attempt": 1}
    assert "no dead letter" in here.run("jobs", "retry", bad, code=5)


def test_watch_follows_a_job_to_its_end(here: Lab) -> None:
    (slow,) = here.enqueue("slow")
    watching = here.commands.start("jobs", "watch", slow)
    watching.says(r"QUEUED$")
    here.commands.start("serve", "services.labs:Lab").says("serving")
    watching.says(r'RUNNING  attempt 1  \{"percent": 50\}')
    watching.says(r'SUCCEEDED  attempt 1  .*\{"done": "slow", "attempt": 1\}')
    assert watching.ends() == 0
    bad, hang = here.enqueue("bad", "hang")
    assert "INVALID_ARGUMENT: that is bad" in here.run("jobs", "watch", bad, code=64 + 3)
    watching = here.commands.start("jobs", "watch", hang, "--json")
    watching.says('"RUNNING"')
    assert "CANCELLED" in here.run("jobs", "cancel", hang)
    assert watching.ends() == 64 + 1
    assert "there is no operation" in here.run("jobs", "watch", "operations/a.B/C/d", code=5)


def test_watch_sees_a_queue_drain(here: Lab) -> None:
    here.enqueue(*["good"] * 20)
    watching = here.commands.start("jobs", "watch", "--interval", "0.1", "--json")
    first = json.loads(watching.says(r".*")[0])
    assert (first["waiting"], first["in_flight"], first["out_per_second"]) == (20, 0, None)
    assert first["oldest_age"] > 0
    lines = here.commands.start("jobs", "watch", "lab.v1.Lab/Work", "--interval", "0.1", "--until-empty")
    lines.says(r"lab\.v1\.Lab/Work waiting=20 in_flight=0 scheduled=0 dead=0 oldest=[\d.]+s in=0.0/s out=0.0/s eta=-")
    here.commands.start("serve", "services.labs:Lab").says("serving")
    assert lines.ends() == 0
    assert re.search(r"waiting=0 in_flight=0 .* oldest=- .* eta=0.0s done=100%", lines.output.splitlines()[-1])
    assert watching.stop(signal.SIGINT) == 0
    last = json.loads(watching.output.splitlines()[-1])
    assert (last["waiting"], last["eta"], last["done"]) == (0, 0.0, 1.0)
    assert last["out_per_second"] > 0


def test_purge_cancels_what_waits(here: Lab) -> None:
    waiting = here.enqueue("good", "good", "later")
    assert "Cancel what waits of 3 jobs" in here.run("jobs", "purge", "lab.v1.Lab/Work", code=130, stdin="n\n")
    assert set(here.states().values()) == {"QUEUED", "SCHEDULED"}
    assert here.run("jobs", "purge", "lab.v1.Lab/Work", "--yes") == "cancelled 3 jobs\n"
    assert here.states() == dict.fromkeys(waiting, "CANCELLED")
    assert "there are no" in here.run("jobs", "purge", "lab.v1.Lab", "--yes")


def test_dead_events_and_replay(here: Lab) -> None:
    assert "there are no events" in here.commands.run("events", "list").stderr
    here.commands.start("serve", "services.labs:Shop", "services.labs:Lab").says("serving")
    here.publish("good", "bad")
    until(lambda: here.json("jobs", "list", "--dead"))
    (letter,) = here.json("jobs", "list", "lab.v1.Shop", "--dead")
    assert letter["name"] == "events/lab.v1.Shop/OnDone/2"
    assert here.json("jobs", "show", letter["name"])["request"] == {"what": "bad"}
    (kind,) = [each for each in here.json("events", "list") if each["event"] == "lab.v1.Done"]
    assert (kind["messages"], {group["method"]: group["dead"] for group in kind["groups"]}) == (
        2,
        {"OnDone": 1, "StoreDone": 0},
    )
    (here.folder / "mended").touch()
    assert here.run("jobs", "retry", "--all") == "put back 1 dead letters\n"
    until(lambda: here.got() == ["good", "bad", "bad"])
    assert "has 3 events before it" in here.run("events", "replay", "lab.v1.Shop/OnDone", "--from", "1h", "--yes")
    until(lambda: here.got()[3:] == ["good", "bad", "bad"])
    here.publish("new")
    until(lambda: here.got()[-1] == "new")
    text = here.run("events", "list")
    assert re.search(r"^lab\.v1\.Shop/OnDone +lab\.v1\.Done +0 +0 +0 +yes$", text, re.MULTILINE)
    assert "there are no events since" in here.run(
        "events", "replay", "lab.v1.Shop/OnDone", "--from", "2030-01-01T00:00:00Z", "--yes"
    )
    assert "there is lab.v1.Shop" in here.run("events", "replay", "a.B/C", "--from", "1h", code=5)


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["jobs", "show", "nonsense"], 2, "names no operation"),
        (["jobs", "show", "operations/a.B/C/d"], 5, "there is no operation"),
        (["jobs", "show", "events/a.B/C/x"], 2, "ends in its number"),
        (["jobs", "show", "events/a.B/C/1"], 5, "there is no dead letter"),
        (["jobs", "cancel", "operations/a.B/C/d"], 5, "there is no operation"),
        (["jobs", "list", "a b/C"], 2, "is no SERVICE[/METHOD]"),
        (["jobs", "retry"], 2, "say which"),
        (["jobs", "retry", "x", "--all"], 2, "say which"),
        (["jobs", "list", "--state", "nowhere"], 2, "Invalid value for '--state'"),
        (["events", "replay", "a.B/C", "--from", "yesterday"], 2, "expected a time"),
        (["jobs", "list", "--nats", "nats://127.0.0.1:9"], 3, "natsmesh broker"),
    ],
)
def test_mistakes_are_explained(here: Lab, words: list[str], code: int, expected: str) -> None:
    result = here.commands.run(*words)
    assert expected in result.stderr
    assert result.returncode == code


def test_watch_in_a_terminal_has_a_progress_bar(here: Lab) -> None:
    here.enqueue("good", "good")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "natsmesh", "jobs", "watch", "--interval", "0.1", "--until-empty"],
        cwd=here.folder,
        env={**os.environ, **here.commands.variables, "COLUMNS": "200"},
        stdout=theirs,
    )
    os.close(theirs)
    output = b""

    def read() -> bytes:
        nonlocal output
        if select.select([ours], [], [], 0.1)[0]:
            with contextlib.suppress(OSError):  # how a terminal says that nobody writes to it any more
                output += os.read(ours, 65536)
        return output

    until(lambda: b"[------------------------------]   0 %" in read())
    assert re.search(rb"JOB +WAITING +IN FLIGHT +SCHEDULED +DEAD +OLDEST +IN/S +OUT/S +ETA", output)
    here.commands.start("serve", "services.labs:Lab").says("serving")
    until(lambda: b"[##############################] 100 %" in read())
    until(lambda: (read(), process.poll())[1] is not None)
    assert process.returncode == 0
    assert b"\x1b[3A" in output  # in its place, not below
    os.close(ours)


def test_watch_bears_a_broker_that_restarts(here: Lab, tmp_path: Path) -> None:
    with Broker(port=0, store_dir=tmp_path / "data") as broker:
        here.commands.variables["NATS_URL"] = broker.url
        here.enqueue("good", "good")
        watching = here.commands.start("jobs", "watch", "--interval", "0.1")
        watching.says("waiting=2")
        broker.kill()
        watching.says("natsmesh: ")
        broker.start()
        before = watching.count("waiting=2")
        until(lambda: watching.count("waiting=2") > before)
        assert watching.stop(signal.SIGINT) == 0


def test_what_others_wrote_is_no_command_for_the_terminal(here: Lab) -> None:
    worker = here.folder / "services/labs.py"
    worker.write_text(worker.read_text().replace('"that is bad"', '"\\x1b[2Jcleared\\nand more"'))
    here.commands.start("serve", "services.labs:Lab").says("serving")
    (bad,) = here.enqueue("bad")
    until(lambda: here.states()[bad] == "FAILED")
    for words in (["list"], ["show", bad], ["list", "--dead"]):
        text = here.run("jobs", *words)
        assert "\x1b" not in text
        assert "cleared and more" in text
