"""A service that calls another one, over the same mesh that it is served on."""

import asyncio

import grpc

import rpc
from concierge.v1 import concierge_pb2, concierge_pb2_grpc
from greeter.v1 import greeter_pb2, greeter_pb2_grpc

MAX_GUESTS = 100


class Concierge(concierge_pb2_grpc.ConciergeServicer):
    """Welcomes groups: one call to the greeter for each guest, all at once."""

    def __init__(self, channel: grpc.aio.Channel | None = None) -> None:
        """Calls the greeter over `channel`; without one, over a channel to the broker that `NATS_URL` names."""
        self._greeter = greeter_pb2_grpc.GreeterStub(channel or rpc.Channel())

    async def Welcome(
        self, request: concierge_pb2.WelcomeRequest, context: grpc.aio.ServicerContext
    ) -> concierge_pb2.WelcomeResponse:
        if len(request.guests) > MAX_GUESTS:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"guests: {len(request.guests)} names, at most {MAX_GUESTS} are welcomed in one call; send several",
            )
        try:
            async with asyncio.TaskGroup() as group:
                calls = [group.create_task(self._greet(guest, context.time_remaining())) for guest in request.guests]
        except ExceptionGroup as failures:
            failure = failures.exceptions[0]
            if not isinstance(failure, grpc.aio.AioRpcError):
                raise
            await context.abort(failure.code(), f"the greeter failed: {failure.details()}")
        return concierge_pb2.WelcomeResponse(greetings=[call.result() for call in calls])

    async def _greet(self, guest: str, timeout: float | None) -> str:
        reply = await self._greeter.SayHello(greeter_pb2.HelloRequest(name=guest), timeout=timeout)
        return reply.message
