"""What docs/jobs.md shows is compiled, and does what it says."""

from __future__ import annotations

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
from rpc.durable.options import DEFAULT_RETRYABLE, RetryOptions, job_of
from tests.jobs.conftest import World

PAGE = Path(__file__).parents[2] / "docs" / "jobs.md"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Any]]:
    """The modules of the blocks of Python."""
    folder = tmp_path_factory.mktemp("press")
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert [language for language, _ in blocks] == ["proto", "python", "python"]
    (folder / "press" / "v1").mkdir(parents=True)
    (folder / "press" / "v1" / "press.proto").write_text(blocks[0][1])
    arguments = [
        f"-I{folder}",
        *(f"-I{include}" for include in includes()),
        f"-I{Path(protoc.__file__).parent / '_proto'}",
        f"--python_out={folder}",
        f"--grpc_python_out={folder}",
        "press/v1/press.proto",
    ]
    assert protoc.main(["protoc", *arguments]) == 0
    names = ["shown_caller", "shown_worker"]
    for name, (_, text) in zip(names, blocks[1:], strict=True):
        (folder / f"{name}.py").write_text(text)
    sys.path.insert(0, str(folder))
    yield [importlib.import_module(name) for name in names]
    sys.path.remove(str(folder))


async def test_what_is_shown_works(shown: list[Any], world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    caller, worker = shown
    monkeypatch.setenv("NATS_URL", world.url)
    monkeypatch.setenv("NATSMESH_PREFIX", world.prefix)
    server = rpc.Server()
    caller.press_pb2_grpc.add_PressServicer_to_server(worker.Press(), server)
    world.servers.append(server)
    await server.start()
    assert (await caller.print_book("Ulysses")).title == "Ulysses"
    with pytest.raises(RuntimeError, match="a book has a title"):
        await caller.print_book("")


def test_the_defaults_are_those_of_the_page(shown: list[Any]) -> None:
    page = PAGE.read_text()

    def default(option: str) -> str:
        found = re.search(rf"^\| `{re.escape(option)}` \| (.*?) \|", page, re.MULTILINE)
        assert found is not None, option
        return found[1]

    retry = RetryOptions()
    assert default("retry_policy.max_attempts") == str(retry.max_attempts)
    assert default("retry_policy.initial_backoff") == f"{retry.initial_backoff:g} s"
    assert default("retry_policy.max_backoff") == f"{retry.max_backoff / 60:g} min"
    assert default("retry_policy.backoff_multiplier") == f"{retry.backoff_multiplier:g}"
    assert default("retry_policy.jitter") == str(retry.jitter)
    codes = default("retry_policy.retryable_status_codes").split(", ")
    assert sorted(codes) == sorted(code.name for code in DEFAULT_RETRYABLE)
    service = shown[0].press_pb2.DESCRIPTOR.services_by_name["Press"]
    plain = job_of(service.methods_by_name["SweepFloor"])
    assert plain is not None
    assert default("timeout") == ("none" if plain.timeout is None else "?")
    assert default("ack_wait") == f"{plain.ack_wait:g} s"
    assert default("max_concurrency") == str(plain.max_concurrency)
    assert default("result_ttl") == f"{plain.result_ttl / 3600:g} h"
    fields = {
        *(
            field
            for field in options_pb2.MethodOptions.DESCRIPTOR.fields_by_name
            if field not in {"subscribe", "retry_policy"}
        ),
        *(f"retry_policy.{field}" for field in options_pb2.RetryPolicy.DESCRIPTOR.fields_by_name),
    }
    assert set(re.findall(r"^\| `([a-z_.]+)` \|", page, re.MULTILINE)) == fields
