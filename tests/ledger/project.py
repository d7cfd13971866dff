"""The project that the ledger runs: a job and an event whose handlers write into files what they have handled."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from natsmesh.protos import includes

PROTO = """\
syntax = "proto3";

package ledger.v1;

import "google/api/annotations.proto";
import "google/longrunning/operations.proto";
import "google/protobuf/empty.proto";
import "mesh/v1/options.proto";

service Ledger {
  rpc Enter(EnterRequest) returns (google.longrunning.Operation) {
    option (google.api.http) = {post: "/v1/entries" body: "*"};
    option (google.longrunning.operation_info) = {response_type: "EnterResponse" metadata_type: "EnterResponse"};
    option (mesh.v1.method) = {
      retry_policy: {max_attempts: 100 initial_backoff: {nanos: 100000000} max_backoff: {seconds: 2}}
      ack_wait: {seconds: 3}
      max_concurrency: 4
    };
  }
  rpc Store(stream Entry) returns (google.protobuf.Empty) {
    option (mesh.v1.method) = {
      retry_policy: {max_attempts: 100 initial_backoff: {nanos: 100000000} max_backoff: {seconds: 2}}
      ack_wait: {seconds: 3}
      subscribe: {max_batch_size: 2000 max_batch_wait: {nanos: 200000000}}
    };
  }
}

message EnterRequest {
  string request_id = 1;
}
message EnterResponse {
  int32 attempt = 1;
}
message Entry {
  int32 number = 1;
}
"""

SERVICE = """\
import array
import os
import random

import grpc
from google.protobuf import empty_pb2

from ledger.v1 import ledger_pb2, ledger_pb2_grpc

FOLDER = os.environ["LEDGER"]


class Ledger(ledger_pb2_grpc.LedgerServicer):
    def __init__(self):
        # One write each: what the kernel has taken stays when the process is killed.
        self.jobs = open(f"{FOLDER}/jobs-{os.getpid()}", "ab", buffering=0)
        self.events = open(f"{FOLDER}/events-{os.getpid()}", "ab", buffering=0)

    async def Enter(self, request, context):
        if random.random() < 0.01:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "one in a hundred fails")
        self.jobs.write(f"{request.request_id} {context.attempt}\\n".encode())
        return ledger_pb2.EnterResponse(attempt=context.attempt)

    async def Store(self, entries, context):
        numbers = array.array("i", [entry.number async for entry in entries])
        self.events.write(numbers.tobytes())
        return empty_pb2.Empty()
"""

PUBLISHER = """\
import asyncio
import sys

import rpc
from ledger.v1 import ledger_pb2

FIRST, LAST, WINDOW = (int(argument) for argument in sys.argv[1:])


async def main():
    numbers = iter(range(FIRST, LAST))

    async def publish_some(publisher):
        for number in numbers:
            while True:
                try:
                    await publisher.publish(ledger_pb2.Entry(number=number), id=f"entry-{number}")
                    break
                except rpc.StatusError as error:
                    print(f"{number}: {error}; once more", file=sys.stderr)

    publisher = rpc.Publisher()  # connects with the first event, and waits for a broker that is away
    await asyncio.gather(*(publish_some(publisher) for _ in range(WINDOW)))
    await publisher.close()


asyncio.run(main())
"""


def make_project(folder: Path) -> None:
    """Write the project, with its generated code."""
    (folder / "proto/ledger/v1").mkdir(parents=True)
    (folder / "proto/ledger/v1/ledger.proto").write_text(PROTO)
    (folder / "ledger_service.py").write_text(SERVICE)
    (folder / "ledger_publisher.py").write_text(PUBLISHER)
    (folder / "gen").mkdir()
    (folder / "ledger").mkdir()
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            "-Iproto",
            *(f"-I{include}" for include in includes()),
            "--python_out=gen",
            "--grpc_python_out=gen",
            "proto/ledger/v1/ledger.proto",
        ],
        cwd=folder,
        check=True,
    )
