"""natsmesh: a job of a .proto, its generated stub, `natsmesh serve`, and google.longrunning.Operations.

natsmesh serve benchmarks.programs.jobs_natsmesh:Jobs
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import nats
from bench.v1 import bench_pb2, bench_pb2_grpc
from google.longrunning import operations_pb2, operations_pb2_grpc

import rpc
from benchmarks.programs import jobs_client

JOBS, RECORDS = "JOBS-bench_v1_Jobs", "KV_operations"
TIMEOUT = 10.0


class Jobs(bench_pb2_grpc.JobsServicer):
    async def RunOne(self, request: bench_pb2.RunRequest, context: rpc.JobContext) -> bench_pb2.RunResponse:
        return bench_pb2.RunResponse(number=request.number + 1)

    async def RunMany(self, request: bench_pb2.RunRequest, context: rpc.JobContext) -> bench_pb2.RunResponse:
        return bench_pb2.RunResponse(number=request.number + 1)


class Queue(jobs_client.Queue):
    def __init__(self, url: str, at_once: str) -> None:
        self._url = url
        self._method = "RunOne" if at_once == "1" else "RunMany"

    async def open(self) -> None:
        channel = rpc.Channel(self._url)
        self._run = getattr(bench_pb2_grpc.JobsStub(channel), self._method)
        self._operations: Any = operations_pb2_grpc.OperationsStub(channel)
        self._jetstream = (await nats.connect(self._url)).jetstream(timeout=TIMEOUT)

    async def enqueue(self, number: int) -> operations_pb2.Operation:
        operation: operations_pb2.Operation = await self._run(bench_pb2.RunRequest(number=number), timeout=TIMEOUT)
        return operation

    async def result(self, handle: operations_pb2.Operation) -> int:
        request = operations_pb2.WaitOperationRequest(name=handle.name)
        request.timeout.FromTimedelta(timedelta(seconds=TIMEOUT))
        done = await self._operations.WaitOperation(request, timeout=TIMEOUT)
        response = bench_pb2.RunResponse()
        if not done.response.Unpack(response):
            raise SystemExit(f"no result: {done}")
        return response.number

    async def state(self) -> tuple[int, int]:
        jobs = await self._jetstream.stream_info(JOBS)
        records = await self._jetstream.stream_info(RECORDS)
        return jobs.state.messages, records.state.messages
