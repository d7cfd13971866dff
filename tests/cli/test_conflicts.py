"""HTTP routes that two services claim: `natsmesh list` and `natsmesh describe` tell, for people and for programs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import rpc
from natsmesh.conflicts import Conflict, conflicts
from tests.cli.commands import Commands, closing
from tests.gateway.contracts import compile_proto, register

FIRST = """
    syntax = "proto3";
    package {package};
    import "google/api/annotations.proto";
    message Thing {{ string name = 1; string of = 2; }}
    service Shop {{
      rpc Get(Thing) returns (Thing) {{ option (google.api.http) = {{get: "{path}"}}; }}
      rpc Put(Thing) returns (Thing) {{ option (google.api.http) = {{post: "/v1/{package}" body: "*"}}; }}
    }}
"""
SCHEMAS = {
    f"{package}.Shop": compile_proto(FIRST.format(package=package, path=path), f"{package.replace('.', '_')}.proto")
    for package, path in (
        ("clash.a", "/v1/things/{name}"),
        ("clash.b", "/v1/{name=things/*}"),
        ("clash.c", "/v1/things/{name}/of/{of}"),
    )
}
ROUTE = "GET /v1/things/{name}"
METHODS = ["clash.a.Shop/Get", "clash.b.Shop/Get"]


@pytest.fixture
async def mesh(nats_url: str, tmp_path: Path) -> AsyncIterator[Commands]:
    servers = []
    for service, schema in SCHEMAS.items():
        register(schema)
        server = rpc.Server(nats_url, prefix="clash")
        methods = {name: grpc.unary_unary_rpc_method_handler(_echo) for name in ("Get", "Put")}
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, methods)])
        await server.start()
        servers.append(server)
    with closing(Commands(tmp_path, NATS_URL=nats_url, NATSMESH_PREFIX="clash")) as commands:
        yield commands
    for server in servers:
        await server.stop(0)


async def _echo(request: bytes, context: Any) -> bytes:
    return request


async def test_list_and_describe_tell_of_conflicts(mesh: Commands) -> None:
    async def run(*words: str) -> str:
        result = await asyncio.to_thread(mesh.run, *words)
        assert (result.returncode, result.stderr) == (0, "")
        return result.stdout

    everything, a_service, a_method, another, alone = await asyncio.gather(
        run("list"),
        run("describe", "clash.b.Shop"),
        run("describe", "clash.b.Shop/Get"),
        run("describe", "clash.b.Shop/Put"),
        run("describe", "clash.c.Shop"),
    )
    for text in (everything, a_service, a_method):
        assert "\n\nConflicting HTTP routes\n  ROUTE " in text
        assert text.count(f"\n  {ROUTE}  {METHODS[0]}  {METHODS[1]}\n") == 1
        assert "keeps serving the one that it found first" in text
    for text in (another, alone):
        assert "Conflicting" not in text

    listed, described = (
        json.loads(text)
        for text in await asyncio.gather(run("list", "--json"), run("describe", "clash.a.Shop", "--json"))
    )
    expected = [{"route": ROUTE, "methods": METHODS}]
    assert [each["conflicts"] for each in listed] == [expected, expected, []]
    assert described["conflicts"] == expected


def test_paths_of_connect_and_broken_schemas() -> None:
    text = """
        syntax = "proto3";
        package {package};
        import "google/api/annotations.proto";
        message Thing {{}}
        service Shop {{
          rpc Get(Thing) returns (Thing) {{
            option idempotency_level = NO_SIDE_EFFECTS;
            option (google.api.http) = {{
              get: "{path}"
              additional_bindings {{ get: "/v1/{{nonsense" }}
              additional_bindings {{ get: "{path}" }}
            }};
          }}
        }}
    """
    schemas = {
        "a.Shop": compile_proto(text.format(package="a", path="/v1/a")),
        "b.Shop": compile_proto(text.format(package="b", path="/a.Shop/Get")),
        "c.Shop": b"\xff",
        "d.Shop": b"",
    }
    assert conflicts(schemas) == [
        Conflict("GET /v1/a", ("a.Shop/Get", "a.Shop/Get")),
        Conflict("GET /a.Shop/Get", ("a.Shop/Get", "b.Shop/Get", "b.Shop/Get")),
    ]
