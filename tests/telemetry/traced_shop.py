"""Services of ``stage.proto`` for test_messaging_end_to_end.py: a job that is tried twice, and events."""

import logging
from collections.abc import AsyncIterator

import grpc
from google.protobuf import empty_pb2
from stage.v1 import stage_pb2, stage_pb2_grpc

import rpc
from greeter.v1 import greeter_pb2, greeter_pb2_grpc

logger = logging.getLogger("traced_shop")


class Shop(stage_pb2_grpc.ShopServicer):
    """Publishes what was ordered, at the second attempt."""

    async def Order(self, request: stage_pb2.OrderRequest, context: rpc.JobContext) -> stage_pb2.OrderResponse:
        logger.info("order %s, attempt %d", request.id, context.attempt)
        if context.attempt == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
        await rpc.publish(stage_pb2.Placed(id=request.id), id=f"placed-{request.id}")
        return stage_pb2.OrderResponse(id=request.id)


class Mail(stage_pb2_grpc.MailServicer):
    """Calls another service for each event, and stumbles over some."""

    async def OnPlaced(self, event: stage_pb2.Placed, context: rpc.EventContext) -> empty_pb2.Empty:
        logger.info("mail for %s", event.id)
        if event.id.startswith("zero"):
            raise ZeroDivisionError("as asked for")
        async with rpc.Channel(rpc.current_connection()) as channel:
            stub = greeter_pb2_grpc.GreeterStub(channel)
            await stub.SayHello(greeter_pb2.HelloRequest(name=event.id), timeout=5)
        return empty_pb2.Empty()


class Store(stage_pb2_grpc.StoreServicer):
    """Takes batches."""

    async def StorePlaced(self, events: AsyncIterator[stage_pb2.Placed], context: rpc.EventContext) -> empty_pb2.Empty:
        logger.info("batch of %s", ",".join([event.id async for event in events]))
        return empty_pb2.Empty()


class Audit(stage_pb2_grpc.AuditServicer):
    """Takes what there is."""

    async def OnPlaced(self, event: stage_pb2.Placed, context: rpc.EventContext) -> empty_pb2.Empty:
        return empty_pb2.Empty()
