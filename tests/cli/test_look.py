"""``natsmesh list | describe | call | version | broker``: for people, and for programs."""

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from rpc.embedded import Broker
from tests.cli.commands import Commands, closing, is_alive
from tests.cli.credentials import make_account
from tests.cli.projects import edit, make_project

HEADINGS = ["SERVICE", "VERSIONS", "INSTANCES", "RUNNING", "WAITING", "CALLS", "ERRORS", "AVERAGE"]
READY = r"^\d\d:.* serving"


@pytest.fixture(scope="module")
def shop(nats_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """A mesh with two instances of one service; the commands that look at it change nothing."""
    folder = make_project(tmp_path_factory.mktemp("shop") / "project")
    edit(
        folder / "services/shop.py",
        "        await asyncio.sleep(request.seconds)\n",
        """\
        await context.send_initial_metadata((("said", dict(context.invocation_metadata()).get("say", "")),))
        if request.seconds < 0:
            from google.protobuf import any_pb2
            from google.rpc import error_details_pb2, status_pb2
            detail = any_pb2.Any()
            detail.Pack(error_details_pb2.ErrorInfo(reason="TIME_TRAVEL"))
            unknown = any_pb2.Any(type_url="type.googleapis.com/nowhere.Nothing", value=b"1")
            from grpc_status import rpc_status
            status = status_pb2.Status(code=9, message="time goes forward", details=[detail, unknown])
            await context.abort_with_status(rpc_status.to_status(status))
        await asyncio.sleep(request.seconds)
""",
    )
    with closing(Commands(folder, NATS_URL=nats_url, NATSMESH_PREFIX="look")) as commands:
        serves = [commands.start("serve", "services.shop:Shop") for _ in range(2)]
        for serve in serves:
            serve.says(READY)
        yield commands


def test_call_prints_json(shop: Commands) -> None:
    result = shop.run("call", "shop.v1.Shop/Price", '{"thing": "apple"}')
    assert (result.returncode, json.loads(result.stdout), result.stderr) == (0, {"cents": 30}, "")
    result = shop.run("call", "/shop.v1.Shop/Price", "-", "--json", stdin='{"thing": "apple"}')
    assert (result.returncode, result.stdout) == (0, '{"cents": 30}\n')


def test_call_takes_metadata_and_shows_it(shop: Commands) -> None:
    result = shop.run("call", "shop.v1.Shop/Wait", "-v", "-H", "say: hello there")
    assert result.returncode == 0
    assert "header said: hello there" in result.stderr


def test_a_failed_call_gives_status_details_and_exit_code(shop: Commands) -> None:
    result = shop.run("call", "shop.v1.Shop/Price", '{"thing": "pear"}')
    assert (result.returncode, result.stdout, result.stderr) == (64 + 5, "", "NOT_FOUND: there is no pear\n")
    result = shop.run("call", "shop.v1.Shop/Wait", '{"seconds": -1}', "--json")
    assert result.returncode == 64 + 9
    error = json.loads(result.stderr)
    assert (error["code"], error["message"]) == ("FAILED_PRECONDITION", "time goes forward")
    assert error["details"][0]["reason"] == "TIME_TRAVEL"
    assert error["details"][1] == {"@type": "type.googleapis.com/nowhere.Nothing"}
    result = shop.run("call", "shop.v1.Shop/Wait", '{"seconds": -1}')
    assert re.search(r"^  .*TIME_TRAVEL", result.stderr, re.MULTILINE)


def test_a_call_that_takes_too_long_ends_in_time(shop: Commands) -> None:
    result = shop.run("call", "shop.v1.Shop/Wait", '{"seconds": 30}', "--timeout", "0.3")
    assert result.returncode == 64 + 4
    assert result.stderr.startswith("DEADLINE_EXCEEDED")


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["shop.v1.Shop/Price", '{"thing": }'], 2, "the request is no shop.v1.PriceRequest"),
        (["shop.v1.Shop/Price", '{"thnig": "apple"}'], 2, 'no field named "thnig"'),
        (["shop.v1.Shop/Price", '{"thnig": "apple"}'], 2, 'Expected e.g. {"thing": "thing"}'),
        (["shop.v1.Shop/Prices"], 5, "shop.v1.Shop has no method Prices; did you mean Price?"),
        (["shop.v1.Shpo/Price"], 5, "no back-end serves shop.v1.Shpo at nats://127.0.0.1:"),
        (["shop.v1.Shpo/Price"], 5, "did you mean shop.v1.Shop?"),
        (["shop.v1.Shop"], 2, "write pkg.Service/Method"),
        (["shop v1/Price"], 2, "is no service name"),
        (["shop.v1.Shop/Price", "-H", "nonsense"], 2, "expected 'key: value'"),
        (["shop.v1.Shop/Price", "-H", "grpc-x: 1"], 2, "is reserved"),
        (["shop.v1.Shop/Price", "-H", "x-bin: ?"], 2, "base64"),
        (["shop.v1.Shop/Price", "--timeout", "0"], 2, "Invalid value for '--timeout'"),
        (["shop.v1.Shop/Price", "--nats", "http://x"], 2, "is no NATS address"),
        (["shop.v1.Shop/Price", "--nats", "nats://127.0.0.1:9"], 3, "natsmesh broker"),
        (["shop.v1.Shop/Price", "--creds", "nowhere.creds"], 2, "nowhere.creds"),
    ],
)
def test_a_mistake_in_a_call_is_explained(shop: Commands, words: list[str], code: int, expected: str) -> None:
    result = shop.run("call", *words)
    assert expected in result.stderr
    assert (result.returncode, result.stdout) == (code, "")


def test_list_adds_up_the_instances(shop: Commands) -> None:
    shop.run("call", "shop.v1.Shop/Price", '{"thing": "apple"}')
    lines = shop.run("list").stdout.splitlines()
    assert lines[0].split() == HEADINGS
    assert re.match(r"shop\.v1\.Shop  1\.2\.3 +2 +0/\d+ +0 +\d+ +\d+ +[\d.]+ ms$", lines[1])
    assert len(shop.run("list", "--instances").stdout.splitlines()) == 3
    (service,) = json.loads(shop.run("list", "--json").stdout)
    assert (service["service"], service["versions"], len(service["instances"])) == ("shop.v1.Shop", ["1.2.3"], 2)
    methods = service["instances"][0]["methods"]
    assert [method["name"] for method in methods] == ["Price", "Wait"]
    assert service["instances"][0]["load"]["running"] == 0


def test_list_shows_this_mesh_only(shop: Commands) -> None:
    result = shop.run("list", "--prefix", "other")
    assert (result.returncode, result.stdout) == (0, "")
    assert "nothing is served" in result.stderr
    assert shop.run("list", "--json", "--prefix", "other").stdout == "[]\n"


def test_describe_prints_proto_text_and_routes(shop: Commands) -> None:
    text = shop.run("describe", "shop.v1.Shop").stdout
    assert text.startswith("shop.v1.Shop: 2 instances, version 1.2.3\n\nservice Shop {\n  rpc Price(")
    assert "message WaitReply {\n  int32 pid = 1;\n}" in text
    assert re.search(r"GET /v1/prices/\{thing\} +Price", text)
    assert "curl localhost:8080/v1/prices/thing" in text
    one = shop.run("describe", "shop.v1.Shop/Wait").stdout
    assert "rpc Wait(" in one
    assert "rpc Price(" not in one
    assert "PriceRequest" not in one


def test_describe_for_programs(shop: Commands) -> None:
    facts = json.loads(shop.run("describe", "shop.v1.Shop", "--json").stdout)
    price = facts["methods"][0]
    assert (price["request"], price["response"]) == ("shop.v1.PriceRequest", "shop.v1.PriceReply")
    assert price["routes"] == [{"method": "GET", "path": "/v1/prices/{thing}", "body": ""}]
    assert price["example"] == {"thing": "thing"}


@pytest.mark.parametrize("name", ["shop.v1.Nothing", "shop.v1.Shop/Nothing"])
def test_describe_what_is_not_there(shop: Commands, name: str) -> None:
    assert shop.run("describe", name).returncode == 5


def test_output_may_be_cut_off(shop: Commands) -> None:
    result = shop.run("version", "--json")
    assert json.loads(result.stdout)["natsmesh"]
    assert shop.run("version").stdout.startswith("natsmesh ")


@pytest.mark.parametrize(
    "words",
    [
        [],
        *(
            [name]
            for name in (
                "broker",
                "gateway",
                "serve",
                "dev",
                "list",
                "describe",
                "call",
                "jobs",
                "events",
                "protos",
                "version",
            )
        ),
    ],
)
def test_everything_has_help(shop: Commands, words: list[str]) -> None:
    for flag in ("--help", "-h"):
        result = shop.run(*words, flag)
        assert result.returncode == 0
        assert result.stdout.startswith(f"Usage: natsmesh {' '.join(words)}")


@pytest.mark.parametrize("words", [["nonsense"], ["serve"], ["list", "--nonsense"]])
def test_wrong_usage_is_2(shop: Commands, words: list[str]) -> None:
    result = shop.run(*words)
    assert result.returncode == 2
    assert "Usage: " in result.stderr


# --------------------------------------------------------------------------------------------------------- broker


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Commands]:
    with closing(Commands(tmp_path)) as commands:
        yield commands


def test_broker_runs_in_the_foreground(bare: Commands) -> None:
    broker = bare.start("broker", "--port", "0", "--store-dir", "data")
    url = broker.says(r"NATS is ready at (nats://\S+)")[1]
    broker.says(r"JetStream keeps its data in .*/data$")
    broker.says(r"If the power fails, what it confirmed in the last 1 s may be lost \(--sync-interval\)")
    assert bare.run("list", NATS_URL=url).returncode == 0
    taken = bare.run("broker", "--port", url.rpartition(":")[2])
    assert taken.returncode == 4
    assert "a NATS server listens there already" in taken.stderr
    assert "(--port)" in taken.stderr
    assert broker.stop(signal.SIGINT) == 0
    assert (bare.folder / "data/jetstream").is_dir()


def test_broker_says_what_a_loss_of_power_may_take(bare: Commands) -> None:
    for given, lost in (("always", ""), ("2m", "in the last 120 s")):
        broker = bare.start("broker", "--port", "0", "--store-dir", "data", "--sync-interval", given)
        broker.says("JetStream keeps its data")
        assert broker.stop(signal.SIGINT) == 0
        assert ("If the power fails" in broker.output) == bool(lost)
        assert lost in broker.output
    for given in ("0", "-1s", "never"):
        wrong = bare.run("broker", "--store-dir", "data", "--sync-interval", given)
        assert wrong.returncode == 2
        assert "a time such as 500ms" in wrong.stderr


def test_broker_tells_that_the_server_died(bare: Commands) -> None:
    broker = bare.start("broker", "--port", "0")
    pid = int(broker.says(r"^\[(\d+)\]")[1])
    broker.says("NATS is ready")
    os.kill(pid, signal.SIGKILL)
    assert broker.ends() == 1
    broker.says("nats-server ended by itself: ended by SIGKILL")
    assert not is_alive(pid)


def test_a_credentials_file_opens_the_door(project: Path) -> None:
    account = make_account()
    file = project / "somebody.creds"
    file.write_text(account.creds)
    with Broker(port=0, config=account.config) as broker, closing(Commands(project, NATS_URL=broker.url)) as commands:
        locked = commands.run("list")
        assert locked.returncode == 3
        assert "uthorization" in locked.stderr
        commands.start("serve", "services.shop:Shop", "--workers", "1", NATS_CREDS=str(file)).says(READY)
        call = ["call", "shop.v1.Shop/Price", '{"thing": "apple"}', "--json"]
        assert commands.run(*call, "--creds", str(file)).stdout == '{"cents": 30}\n'
        assert commands.run(*call, NATS_CREDS=str(file)).stdout == '{"cents": 30}\n'
