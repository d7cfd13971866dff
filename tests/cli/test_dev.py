"""``natsmesh dev``: everything starts, is reloaded as files are saved, and is gone after Ctrl-C."""

import contextlib
import json
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cli.commands import Command, Commands, children, closing, free_port, is_alive, until
from tests.cli.projects import edit, make_project

UP = r"natsmesh is up: http://localhost:(\d+)"

SAY_HELLO = """\
  rpc Hello(PriceRequest) returns (PriceReply) {
    option (google.api.http) = {get: "/v1/hello/{thing}"};
  }
"""
HELLO = """
    async def Hello(self, request, context):
        return shop_pb2.PriceReply(cents=len(request.thing))
"""


class Dev:
    """``natsmesh dev`` in a project, on free ports."""

    def __init__(self, commands: Commands, *words: str, **variables: str) -> None:
        self.port, self.nats_port = free_port(), free_port()
        self.folder = commands.folder
        ports = ("--port", str(self.port), "--nats-port", str(self.nats_port))
        self.command = commands.start("dev", *ports, *words, **variables)

    def up(self) -> "Dev":
        self.command.says(UP)
        return self

    def get(self, path: str) -> tuple[int, Any]:
        """GET a path from the gateway."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, None

    def descendants(self) -> list[int]:
        """The process ids of all that it has started, directly or not."""
        found, waiting = [], [self.command.pid]
        while waiting:
            more = children(waiting.pop())
            found += more
            waiting += more
        return found


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    """A project without generated code."""
    with closing(Commands(make_project(tmp_path / "project", generate=False))) as commands:
        yield commands


def test_starts_everything_shows_what_to_call_and_leaves_nothing_behind(commands: Commands) -> None:
    dev = Dev(commands).up()
    dev.command.says(rf"^    curl localhost:{dev.port}/v1/prices/thing$")
    assert dev.get("/v1/prices/apple") == (200, {"cents": 30})
    assert (
        commands.run("list", NATS_URL=f"nats://127.0.0.1:{dev.nats_port}")
        .stdout.splitlines()[1]
        .startswith("shop.v1.Shop ")
    )
    for name in ("gateway", "shop"):
        dev.command.says(rf"^{name} +\| ")
    processes = dev.descendants()
    assert len(processes) >= 4, "gateway, service, broker and its guard"
    begun = time.monotonic()
    assert dev.command.stop(signal.SIGINT) == 0
    assert time.monotonic() - begun < 5
    dev.command.says("stopped")
    assert not [pid for pid in processes if is_alive(pid)]
    assert "Traceback" not in dev.command.output


def test_a_second_start_is_fast(commands: Commands) -> None:
    Dev(commands).up().command.stop(signal.SIGINT)
    dev = Dev(commands).up()
    assert time.monotonic() - dev.command.started < 6, "3 s is the aim; this machine may be busy"


def test_sigterm_is_the_same_and_a_second_signal_ends_it_at_once(commands: Commands) -> None:
    assert Dev(commands).up().command.stop(signal.SIGTERM) == 0

    dev = Dev(commands, "--grace", "30").up()
    url = f"nats://127.0.0.1:{dev.nats_port}"
    slow = commands.start("call", "shop.v1.Shop/Wait", '{"seconds": 20}', "--timeout", "20", NATS_URL=url)
    until(lambda: " 1/" in commands.run("list", NATS_URL=url).stdout, "the call runs")
    processes = dev.descendants()
    dev.command.process.send_signal(signal.SIGINT)
    dev.command.says("shop .* stopping")
    begun = time.monotonic()
    assert dev.command.stop(signal.SIGINT) == 128 + signal.SIGINT
    assert time.monotonic() - begun < 3
    until(lambda: not [pid for pid in processes if is_alive(pid)], "all processes end")
    slow.kill()


def test_nothing_outlives_a_killed_dev(commands: Commands) -> None:
    dev = Dev(commands).up()
    processes = dev.descendants()
    dev.command.kill()
    until(lambda: not [pid for pid in processes if is_alive(pid)], "all processes end")


# --------------------------------------------------------------------------------------------------------- reload


def test_a_new_method_can_be_called_seconds_after_it_is_saved(commands: Commands) -> None:
    dev = Dev(commands).up()
    assert dev.get("/v1/hello/you")[0] == 404
    edit(dev.folder / "proto/shop/v1/shop.proto", "service Shop {\n", "service Shop {\n" + SAY_HELLO)
    edit(dev.folder / "services/shop.py", "    async def Price", HELLO.lstrip("\n") + "\n    async def Price")
    begun = time.monotonic()
    until(lambda: dev.get("/v1/hello/you") == (200, {"cents": 3}), "the new method answers")
    assert time.monotonic() - begun < 10
    dev.command.says(rf"shop\.v1\.Shop/Hello can be called:  curl localhost:{dev.port}/v1/hello/thing")
    assert dev.get("/v1/prices/apple") == (200, {"cents": 30})


def test_a_comment_can_be_read_seconds_after_it_is_saved(commands: Commands) -> None:
    dev = Dev(commands).up()
    dev.command.says(rf"http://localhost:{dev.port}/docs$")
    assert dev.get("/openapi.json")[1]["tags"] == [{"name": "shop.v1.Shop", "description": "Shop sells things."}]
    # The code that is generated of the message is the same with any comment.
    edit(dev.folder / "proto/shop/v1/shop.proto", "// The process that answered.", "// Who answered.")

    def documented() -> str:
        schemas = dev.get("/openapi.json")[1]["components"]["schemas"]
        return str(schemas["shop.v1.WaitReply"]["properties"]["pid"]["description"])

    assert documented() in {"The process that answered.", "Who answered."}
    until(lambda: documented() == "Who answered.", "the new comment is served")


def test_saving_what_a_service_imports_reloads_it_without_a_gap(commands: Commands) -> None:
    dev = Dev(commands).up()
    for cents in (31, 32, 33, 34):  # saves in the same second, of the same length
        edit(dev.folder / "services/prices.py", str(cents - 1), str(cents))
        limit = time.monotonic() + 15
        while (answer := dev.get("/v1/prices/apple")) != (200, {"cents": cents}):
            assert answer[0] == 200, "the old one answers until the new one does"
            assert time.monotonic() < limit
    assert dev.command.count("services/prices.py saved: shop is restarted") == 4


def test_saving_the_same_again_or_something_else_restarts_nothing(commands: Commands) -> None:
    (commands.folder / "services/other.py").write_text("X = 1\n")
    dev = Dev(commands).up()
    for name in ("services/prices.py", "services/other.py"):
        edit(dev.folder / name, "=", "=")
    edit(dev.folder / "services/other.py", "1", "2")
    edit(dev.folder / "services/prices.py", "30", "35")
    until(lambda: dev.get("/v1/prices/apple") == (200, {"cents": 35}))
    assert dev.command.count("is restarted") == 1


def test_only_the_services_that_import_a_file_are_restarted(commands: Commands) -> None:
    edit(commands.folder / "services/shop.py", "class Shop", "class Shop")
    second = (commands.folder / "proto/shop/v1/shop.proto").read_text().replace("shop.v1", "till.v1")
    till = commands.folder / "proto/till/v1/till.proto"
    till.parent.mkdir(parents=True)
    till.write_text(second.replace("/v1/prices", "/v1/till"))
    code = (commands.folder / "services/shop.py").read_text()
    code = code.replace("shop_pb2", "till_pb2").replace("shop.v1", "till.v1").replace("prices.PRICES", "{'apple': 1}")
    (commands.folder / "services/till.py").write_text(code.replace("from services import prices\n", ""))
    dev = Dev(commands).up()
    assert dev.get("/v1/till/apple") == (200, {"cents": 1})
    edit(dev.folder / "services/prices.py", "30", "36")
    until(lambda: dev.get("/v1/prices/apple") == (200, {"cents": 36}))
    assert dev.command.count("shop is restarted") == 1
    assert dev.command.count("till is restarted") == 0


def test_a_mistake_in_a_proto_is_shown_with_its_place_while_the_rest_runs(commands: Commands) -> None:
    dev = Dev(commands).up()
    proto = dev.folder / "proto/shop/v1/shop.proto"
    edit(proto, "service Shop {\n", "service Shop {\n  rpc Broken(Nothing) returns (PriceReply);\n")
    dev.command.says(r'proto/shop/v1/shop\.proto:8:14: "Nothing" is not defined')
    assert dev.get("/v1/prices/apple") == (200, {"cents": 30})
    edit(proto, "  rpc Broken(Nothing) returns (PriceReply);\n", SAY_HELLO)
    edit(dev.folder / "services/shop.py", "    async def Price", HELLO.lstrip("\n") + "\n    async def Price")
    until(lambda: dev.get("/v1/hello/you") == (200, {"cents": 3}), "the corrected method answers")


def test_a_mistake_in_a_service_is_shown_with_its_place_while_the_old_code_answers(commands: Commands) -> None:
    dev = Dev(commands).up()
    edit(dev.folder / "services/shop.py", "async def Wait", "async deff Wait")
    dev.command.says(r"services/shop\.py:16: .*SyntaxError")
    dev.command.says("shop goes on with the code from before")
    assert dev.get("/v1/prices/apple") == (200, {"cents": 30})
    edit(dev.folder / "services/prices.py", "30", "37")
    edit(dev.folder / "services/shop.py", "async deff Wait", "async def Wait")
    until(lambda: dev.get("/v1/prices/apple") == (200, {"cents": 37}), "the corrected code answers")


def test_a_service_that_is_broken_at_the_start_comes_up_once_it_is_corrected(commands: Commands) -> None:
    edit(commands.folder / "services/prices.py", "=", "==")
    dev = Dev(commands).up()
    dev.command.says(r"services/prices\.py:1: .*NameError: name 'PRICES' is not defined")
    dev.command.says("not running, see above: shop")
    edit(commands.folder / "services/prices.py", "==", "=")
    until(lambda: dev.get("/v1/prices/apple") == (200, {"cents": 30}), "the corrected service answers")
    dev.command.says(r"shop\.v1\.Shop/Price can be called")


def test_a_service_that_is_new_is_started_and_one_that_is_gone_is_stopped(commands: Commands) -> None:
    code = (commands.folder / "services/shop.py").read_text()
    (commands.folder / "services/shop.py").unlink()
    dev = Dev(commands).up()
    (commands.folder / "services/later.py").write_text(code)
    until(lambda: dev.get("/v1/prices/apple") == (200, {"cents": 30}), "the new service answers")
    (commands.folder / "services/later.py").unlink()
    until(lambda: dev.get("/v1/prices/apple")[0] == 503, "nobody serves it any more")


def test_a_killed_service_and_a_killed_broker_come_back(commands: Commands) -> None:
    dev = Dev(commands).up()
    ours = {child.pid: " ".join(child.cmdline()) for child in psutil.Process(dev.command.pid).children()}
    service = next(pid for pid, command in ours.items() if "serve services.shop" in command)
    broker = next(pid for pid, command in ours.items() if "nats-server --config" in command)
    os.kill(service, signal.SIGKILL)
    dev.command.says(rf"shop \(process {service}\) died: ended by SIGKILL")
    until(lambda: dev.get("/v1/prices/apple") == (200, {"cents": 30}), "the service is back")
    os.kill(broker, signal.SIGKILL)
    dev.command.says("nats-server died: ended by SIGKILL")
    until(lambda: dev.get("/v1/prices/apple") == (200, {"cents": 30}), "the broker is back")
    assert dev.command.stop(signal.SIGINT) == 0


# ------------------------------------------------------------------------------------------------- what is wrong


def says_and_ends(command: Command, code: int, *patterns: str) -> None:
    assert command.ends() == code, command.output
    for pattern in patterns:
        command.says(pattern)


def test_a_taken_port_is_named(commands: Commands) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        says_and_ends(Dev(commands, "--port", port).command, 4, rf"127\.0\.0\.1:{port}: Address already in use.*--port")
        says_and_ends(
            Dev(commands, "--nats-port", port).command, 4, rf"port {port} .* is taken: another program.*--nats-port"
        )


def test_a_second_dev_is_told_to_use_the_first_ones_broker(commands: Commands) -> None:
    first = Dev(commands).up()
    second = Dev(commands, "--nats-port", str(first.nats_port)).command
    says_and_ends(second, 4, rf"a NATS server listens there already.*NATS_URL=nats://127\.0\.0\.1:{first.nats_port}")
    third = Dev(commands, NATS_URL=f"nats://127.0.0.1:{first.nats_port}").up()
    assert third.get("/v1/prices/apple") == (200, {"cents": 30})
    assert len(third.descendants()) < len(first.descendants()), "it has no broker of its own"


def test_an_unreachable_broker_is_named(commands: Commands) -> None:
    says_and_ends(
        Dev(commands, NATS_URL="nats://127.0.0.1:9").command, 3, r"nats://127\.0\.0\.1:9", "NATS_URL points there"
    )


def test_a_folder_without_services_is_explained(tmp_path: Path) -> None:
    with closing(Commands(tmp_path)) as commands:
        says_and_ends(Dev(commands).command, 2, r"has no services: name them .*put them into services/")


def test_services_may_be_named(commands: Commands) -> None:
    (commands.folder / "services").rename(commands.folder / "server")
    edit(commands.folder / "server/shop.py", "from services", "from server")
    assert Dev(commands, "server.shop:Shop").up().get("/v1/prices/apple") == (200, {"cents": 30})
    with contextlib.suppress(FileNotFoundError):
        (commands.folder / "pyproject.toml").write_text('[tool.natsmesh]\nservices = ["server.shop"]\n')
    assert Dev(commands).up().get("/v1/prices/apple") == (200, {"cents": 30})
