"""A project of a user's own, outside this repository: its .proto, its services."""

import subprocess
import sys
from pathlib import Path

from natsmesh.protos import includes

PROTO = """\
syntax = "proto3";
package shop.v1;

import "google/api/annotations.proto";

// Shop sells things.
service Shop {
  rpc Price(PriceRequest) returns (PriceReply) {
    option idempotency_level = NO_SIDE_EFFECTS;
    option (google.api.http) = {get: "/v1/prices/{thing}"};
  }
  // Wait answers after some seconds.
  rpc Wait(WaitRequest) returns (WaitReply);
}

message PriceRequest {
  string thing = 1;
}
message PriceReply {
  int32 cents = 1;
}
message WaitRequest {
  double seconds = 1;
}
message WaitReply {
  // The process that answered.
  int32 pid = 1;
}
"""

SERVICE = """\
import asyncio
import os

import grpc

from services import prices
from shop.v1 import shop_pb2, shop_pb2_grpc


class Shop(shop_pb2_grpc.ShopServicer):
    async def Price(self, request, context):
        if request.thing not in prices.PRICES:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no {request.thing}")
        return shop_pb2.PriceReply(cents=prices.PRICES[request.thing])

    async def Wait(self, request, context):
        await asyncio.sleep(request.seconds)
        return shop_pb2.WaitReply(pid=os.getpid())
"""

PRICES = 'PRICES = {"apple": 30}\n'


def make_project(folder: Path, *, generate: bool = True) -> Path:
    """Write the project; with ``generate``, with its generated code."""
    for name, text in {
        "proto/shop/v1/shop.proto": PROTO,
        "services/__init__.py": "",
        "services/shop.py": SERVICE,
        "services/prices.py": PRICES,
        "pyproject.toml": '[project]\nname = "shop"\nversion = "1.2.3"\n',
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if generate:
        compile_project(folder)
    return folder


def compile_project(folder: Path) -> None:
    """Generate the project's code with stock protoc."""
    (folder / "gen").mkdir(exist_ok=True)
    outputs = ["--python_out=gen", "--pyi_out=gen", "--grpc_python_out=gen"]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-Iproto", *(f"-I{include}" for include in includes())]
    subprocess.run([*command, *outputs, "proto/shop/v1/shop.proto"], cwd=folder, check=True)


def edit(file: Path, old: str, new: str) -> None:
    """Save a file with one thing changed, as an editor does: a new file in the place of the old one."""
    text = file.read_text()
    assert old in text
    part = file.with_suffix(".tmp")
    part.write_text(text.replace(old, new))
    part.replace(file)
