"""The access log: its formats, what clients can do to it (nothing), and what a slow reader can (nothing, either)."""

import asyncio
import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.access_log import AccessLog, Entry, access_log
from gateway.config import Config, ConfigError
from gateway.log_writer import MAX_WAITING, LogWriter
from rpc import StatusCode, StatusError
from tests.gateway.asgi import Client
from tests.gateway.conftest import CannedGateway
from tests.gateway.contracts import library
from tests.gateway.processes import GatewayProcess, RawClient

COMBINED = re.compile(
    r"(?P<client>\S+) - - \[(?P<when>\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4})\] "
    r'"(?P<method>[^" ]+) (?P<path>[^" ]*) (?P<version>HTTP/\d\.\d)" (?P<status>\d{3}) (?P<size>\d+|-) '
    r'"(?P<referer>(?:[^"\\]|\\.)*)" "(?P<agent>(?:[^"\\]|\\.)*)"'
)


@asynccontextmanager
async def logged(application: Any, format_: Any, path: Path) -> AsyncIterator[Client]:
    """A client of an application whose access log is in a file; it is complete at the end of the block."""
    wrapped = access_log(application, format_, path)
    yield Client(wrapped)
    assert isinstance(wrapped, AccessLog)
    await wrapped._writer.close()


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-request-id", b"id-1")]})
    await send({"type": "http.response.body", "body": b"hello ", "more_body": True})
    await send({"type": "http.response.body", "body": b"there"})


async def test_apaches_format(tmp_path: Path) -> None:
    path = tmp_path / "log"
    async with logged(hello, "combined", path) as client:
        headers = {"user-agent": "curl/8.1", "referer": "https://example.com/page?token=secret"}
        await client.get("/a%20b?token=secret", headers=headers)
        await client.post("/", scope={"http_version": "2", "client": None})
        await client.request("HEAD", "/")
    first, second, head = (COMBINED.fullmatch(line) for line in path.read_text().splitlines())
    assert first is not None
    assert second is not None
    assert head is not None
    assert head["size"] == "-"
    assert first["client"] == "127.0.0.1"
    assert (first["method"], first["path"], first["version"]) == ("GET", "/a%20b", "HTTP/1.1")
    assert (first["status"], first["size"]) == ("200", "11")
    assert (first["referer"], first["agent"]) == ("https://example.com/page", "curl/8.1")
    assert (second["client"], second["method"], second["version"]) == ("-", "POST", "HTTP/2.0")
    assert (second["referer"], second["agent"]) == ("-", "-")


async def test_json_and_text(tmp_path: Path) -> None:
    async with logged(hello, "json", tmp_path / "json") as client:
        await client.get("/a?token=secret", headers={"user-agent": 'say "hi"'})
    line = json.loads((tmp_path / "json").read_text())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert 0 <= line.pop("ms") < 1000
    assert line == {
        "method": "GET",
        "path": "/a",
        "status": 200,
        "bytes": 11,
        "client": "127.0.0.1",
        "request_id": "id-1",
        "http": "1.1",
        "user_agent": 'say "hi"',
    }
    async with logged(hello, "text", tmp_path / "text") as client:
        await client.get("/a?token=secret")
    text = (tmp_path / "text").read_text()
    assert re.fullmatch(r"\S+Z 127\.0\.0\.1 GET /a 200 \d+\.\dms 11B id-1\n", text)


@pytest.mark.parametrize("format_", ["combined", "json", "text"])
async def test_clients_cannot_forge_lines(tmp_path: Path, format_: str) -> None:
    evil = '"\r\n127.0.0.1 - - forged \x1b[31m\x00\\" é\u2028\x85'.encode("utf-8", "replace").decode("latin-1")
    async with logged(hello, format_, tmp_path / "log") as client:
        scope = {"raw_path": b"/" + evil.encode("latin-1") + b"x" * 9000, "method": 'GET"\n'}
        headers = {"user-agent": evil + "x" * 9000, "referer": evil, "x-request-id": evil}
        await client.get("/", headers=headers, scope=scope)
    data = (tmp_path / "log").read_bytes()
    assert data.count(b"\n") == 1
    assert data.endswith(b"\n")
    assert all(0x20 <= byte <= 0x7E for byte in data[:-1])
    assert len(data) <= 4 * 4096
    if format_ == "combined":
        assert COMBINED.fullmatch(data.decode().rstrip()), data


async def test_everything_is_logged_but_what_machines_ask_all_the_time(tmp_path: Path) -> None:
    canned = CannedGateway(library(), "library.v1.Library", Config())
    canned.fail(StatusError(StatusCode.NOT_FOUND, "no such book"))
    async with logged(canned.gateway, "json", tmp_path / "log") as client:
        await client.get("/healthz")
        await client.get("/readyz")
        await client.get("/v1/books/1")
        await client.get("/nowhere")
        await client.request("DELETE", "/v1/books/1")
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [(line["path"], line["status"]) for line in lines] == [
        ("/readyz", 503),
        ("/v1/books/1", 404),
        ("/nowhere", 404),
        ("/v1/books/1", 405),
    ]


async def test_all_is_written_before_the_server_hears_that_it_may_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    seen: list[tuple[str, int]] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for kind in ("startup", "shutdown"):
                await send({"type": f"lifespan.{kind}.complete"})
        else:
            await hello(scope, receive, send)

    wrapped = access_log(application, "text", path)

    async def send(message: Any) -> None:
        if message["type"] == "lifespan.startup.complete":
            for _ in range(100):
                await Client(wrapped).get("/")
        seen.append((message["type"], path.read_text().count("\n") if "shutdown" in message["type"] else 0))

    await wrapped({"type": "lifespan"}, None, send)  # type: ignore[arg-type]
    assert seen == [("lifespan.startup.complete", 0), ("lifespan.shutdown.complete", 100)]


async def test_what_breaks_and_who_hangs_up(tmp_path: Path) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise LookupError("broken")

    async with logged(broken, "json", tmp_path / "log") as client:
        with pytest.raises(LookupError, match="broken"):
            await client.get("/broken")

    async def waiting(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async with logged(waiting, "json", tmp_path / "log") as client:
        conversation = client.open("GET", "/waiting")
        conversation.hang_up()
        await conversation.task
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line["status"] for line in lines] == [500, 499]


def entry(path: str = "/") -> Entry:
    return Entry(0.0, "127.0.0.1", "GET", path, "1.1", 200, 0, 0.0, "", "", "")


async def test_a_log_can_be_rotated(tmp_path: Path) -> None:
    path = tmp_path / "log"
    writer: LogWriter[str] = LogWriter(str, path)

    async def written(file: Path, text: str) -> None:
        async with asyncio.timeout(5):
            while not file.exists() or text not in file.read_text():
                await asyncio.sleep(0.005)

    writer.put("one")
    await written(path, "one\n")
    path.rename(tmp_path / "log.1")
    writer.put("two")
    await written(path, "two\n")
    path.unlink()
    writer.put("three")
    await written(path, "three\n")
    await writer.close()
    assert (tmp_path / "log.1").read_text() == "one\n"


async def test_who_does_not_read_holds_up_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer: LogWriter[str] = LogWriter(lambda text: text, path)
    number = 2 * MAX_WAITING
    for _ in range(number):
        writer.put("x" * 100)  # a pipe takes 64 KiB
    os.set_blocking(reader, True)

    def read() -> int:
        lines = 0
        with os.fdopen(reader, "rb") as pipe:
            for _ in pipe:
                lines += 1
        return lines

    reading = asyncio.create_task(asyncio.to_thread(read))
    while not writer._queue.empty():
        await asyncio.sleep(0.005)
    await writer.close()
    lines = await asyncio.wait_for(reading, 10)
    assert MAX_WAITING <= lines < number
    lost = sum(int(record.args[0]) for record in caplog.records if isinstance(record.args, tuple) and record.args)
    assert lost == number - lines
    assert "were dropped" in caplog.text


async def test_a_log_that_cannot_be_written_is_told_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer: LogWriter[str] = LogWriter(str, tmp_path / "missing" / "log")
    for _ in range(3):
        writer.put("line")
        while not writer._queue.empty():
            await asyncio.sleep(0.001)
    await writer.close()
    assert caplog.text.count("the access log cannot be written") == 1


def test_standard_output(tmp_path: Path) -> None:
    script = (
        "import asyncio\n"
        "from gateway.log_writer import LogWriter\n"
        "async def main():\n"
        "    writer = LogWriter(str, None)\n"
        "    for number in range(1000): writer.put(number)\n"
        "    await writer.close()\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.split() == [str(number) for number in range(1000)]


@pytest.fixture(scope="module")
def process(nats_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GatewayProcess, Path]]:
    folder = tmp_path_factory.mktemp("gateway")
    path = folder / "access.log"
    prefix = f"t{secrets.token_hex(4)}"
    gateway = GatewayProcess(folder, nats_url, prefix, access_log="combined", access_log_file=str(path), workers=2)
    yield gateway.start(), path
    gateway.close()


async def test_several_workers_and_raw_clients(process: tuple[GatewayProcess, Path]) -> None:
    gateway, path = process
    async with RawClient(gateway.port) as client:
        for number in range(20):
            await client.send(b'GET /nope/%d HTTP/1.1\r\nhost: x\r\nuser-agent: a"b\\c\x80\r\n\r\n' % number)
            assert (await client.answer())[0] == 404
    async with asyncio.timeout(10):
        while not path.exists() or path.read_text().count("\n") < 20:
            await asyncio.sleep(0.01)
    matches = [COMBINED.fullmatch(line) for line in path.read_text().splitlines()]
    assert sorted(match["path"] for match in matches if match) == sorted(f"/nope/{number}" for number in range(20))
    assert {match["agent"] for match in matches if match} == {r"a\x22b\x5cc\x80"}
    assert path.stat().st_mode & 0o007 == 0, "not for everybody on the machine"


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^access_log 'apache'"):
        Config(access_log="apache")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^access_log_file: choose a format"):
        Config(access_log_file=Path("log"))
