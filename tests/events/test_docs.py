"""What docs/events.md shows is compiled, and does what it says."""

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grpc_tools import protoc

import rpc
from mesh.v1 import options_pb2
from natsmesh.protos import includes
from tests.events.conftest import World
from tests.waiting import until

PAGE = Path(__file__).parents[2] / "docs" / "events.md"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    """The modules of the two blocks of Python."""
    folder = tmp_path_factory.mktemp("shop")
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert [language for language, _ in blocks] == ["proto", "python", "python"]
    (folder / "shop" / "v1").mkdir(parents=True)
    (folder / "shop" / "v1" / "shop.proto").write_text(blocks[0][1])
    arguments = [
        f"-I{folder}",
        *(f"-I{include}" for include in includes()),
        f"-I{Path(protoc.__file__).parent / '_proto'}",
        f"--python_out={folder}",
        f"--grpc_python_out={folder}",
        "shop/v1/shop.proto",
    ]
    assert protoc.main(["protoc", *arguments]) == 0
    (folder / "shown_publisher.py").write_text(blocks[1][1])
    (folder / "shown_subscribers.py").write_text(blocks[2][1])
    sys.path.insert(0, str(folder))
    yield importlib.import_module("shown_publisher"), importlib.import_module("shown_subscribers")
    sys.path.remove(str(folder))


async def test_what_is_shown_works(
    shown: tuple[Any, Any], world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publisher, subscribers = shown
    monkeypatch.setenv("NATS_URL", world.url)
    monkeypatch.setenv("NATSMESH_PREFIX", world.prefix)
    grpc_code = subscribers.shop_pb2_grpc
    books = subscribers.Books()
    server = rpc.Server()
    grpc_code.add_BooksServicer_to_server(books, server)
    grpc_code.add_MailerServicer_to_server(subscribers.Mailer(), server)
    world.servers.append(server)
    await server.start()
    for order in ("1", "2", "2"):  # the second one twice: it has an id
        await publisher.place(order, "Ann", 250)
    await until(lambda: books.turnover == 500)
    mails: list[str] = []

    def mailed() -> bool:
        mails.extend(capsys.readouterr().out.splitlines())
        return len(mails) == 2

    await until(mailed)
    assert mails == ["mail to Ann, attempt 1"] * 2


def test_all_options_are_in_the_tables() -> None:
    text = PAGE.read_text()
    for message in (options_pb2.EventOptions, options_pb2.Subscription, options_pb2.RetryPolicy):
        for field in message.DESCRIPTOR.fields:
            assert re.search(rf"^\|.*`[a-z_.]*\.?{field.name}`", text, re.MULTILINE), field.name
