"""A gateway and a back-end in one process with tracing on; prints the spans of a few requests as JSON."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "gen")]

import grpc  # noqa: E402 - the paths come first
from opentelemetry import trace  # noqa: E402 - the paths come first
from opentelemetry.sdk.trace import TracerProvider  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: E402

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)

import rpc  # noqa: E402
from gateway.app import Gateway  # noqa: E402
from gateway.config import Config  # noqa: E402
from rpc.testing import MemoryMesh  # noqa: E402
from services.greeter import Greeter  # noqa: E402
from tests.gateway.asgi import Client  # noqa: E402
from tests.gateway.streaming import Context, Item, Items, serve  # noqa: E402


async def tell(request: Any, context: Context) -> Items:
    yield Item(number=1)
    if request.text == "fail":
        await context.abort(grpc.StatusCode.DATA_LOSS, "the rest is gone")


async def main() -> None:
    from greeter.v1 import greeter_pb2_grpc

    mesh = MemoryMesh()
    connections = [mesh.connection() for _ in range(3)]
    for connection in connections:
        await connection.connect()
    server = rpc.Server(connections[0])
    greeter_pb2_grpc.add_GreeterServicer_to_server(Greeter(), server)
    await server.start()
    streams = await serve(connections[2], "", tell=tell)
    async with Gateway(Config(), connection=connections[1]) as gateway:
        await gateway.ready()
        client = Client(gateway)
        theirs = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "baggage": "secret=1"}
        assert (await client.get("/v1/greetings/Ada", headers=theirs)).status == 200
        assert (await client.post("/greeter.v1.Greeter/SayHello", json={"name": 5})).status == 400
        assert (await client.get("/v1/nothing")).status == 404
        for text in ("x", "fail"):
            assert (await client.get(f"/v1/tell/{text}")).status == 200
        envelope = b"\0\0\0\0\0"
        headers = {"content-type": "application/connect+proto"}
        assert (await client.post("/streams.v1.Streams/Tell", envelope, headers=headers)).status == 200
        await streams.stop(0)
        await server.stop(0)
        assert (await client.post("/greeter.v1.Greeter/SayHello", json={"name": "x"})).status == 503
    print(json.dumps([described(span) for span in exporter.get_finished_spans()]))


def described(span: Any) -> dict[str, Any]:
    return {
        "name": span.name,
        "kind": span.kind.name,
        "trace": span.context.trace_id,
        "id": span.context.span_id,
        "parent": span.parent.span_id if span.parent else None,
        "status": span.status.status_code.name,
        "attributes": dict(span.attributes),
        "links": [f"{link.context.trace_id:032x}" for link in span.links],
    }


asyncio.run(main())
