"""Handlers of events that are plain functions: they run in threads, and see the same."""

import threading
from typing import Any

from google.protobuf import empty_pb2

import rpc
from tests.events.conftest import World
from tests.events.stage import stage
from tests.waiting import until


async def test_plain_functions_handle_events_and_batches(world: World) -> None:
    seen: list[tuple[str, int]] = []
    batches: list[list[str]] = []
    threads: set[threading.Thread] = set()

    class Mail(stage.grpc.MailServicer):
        def OnPlaced(self, request: Any, context: Any) -> Any:
            threads.add(threading.current_thread())
            (delivery,) = context.deliveries
            seen.append((delivery.id, context.attempt))
            if context.attempt == 1:
                context.retry_later(0.05, "once more")
            return empty_pb2.Empty()

    class Store(stage.grpc.StoreServicer):
        def StorePlaced(self, request_iterator: Any, context: Any) -> Any:
            threads.add(threading.current_thread())
            ids = [request.id for request in request_iterator]
            assert len(context.deliveries) == len(ids)
            batches.append(ids)
            return empty_pb2.Empty()

    publisher = await world.publisher()
    for number in range(3):
        await publisher.publish(stage.placed(number), id=f"id-{number}")
    server = rpc.Server(world.url, prefix=world.prefix)
    stage.grpc.add_MailServicer_to_server(Mail(), server)
    stage.grpc.add_StoreServicer_to_server(Store(), server)
    world.servers.append(server)
    await server.start()
    await until(lambda: len(seen) == 6 and batches)
    assert sorted(seen) == sorted((f"id-{number}", attempt) for number in range(3) for attempt in (1, 2))
    assert batches == [["0", "1", "2"]]
    assert threading.main_thread() not in threads
    assert await until(lambda: world.settled("stage_v1_Mail-OnPlaced"))
