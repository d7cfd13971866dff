"""Who gets what: groups, processes of a group, batches, starts, dead letters."""

import asyncio
import itertools
import time
from typing import Any

import grpc
from google.protobuf import empty_pb2

import rpc
from rpc.status import StatusCode
from tests.events.conftest import World
from tests.events.stage import Subscriber, stage
from tests.waiting import until

MAIL, STORE = "stage_v1_Mail-OnPlaced", "stage_v1_Store-StorePlaced"


async def publish(world: World, *names: object) -> None:
    publisher = await world.publisher()
    for name in names:
        await publisher.publish(stage.placed(name), id=f"id-{name}")


async def test_each_group_gets_each_event_and_one_process_of_it_handles_it(world: World) -> None:
    async def take_time(_events: Any, _context: Any) -> None:
        await asyncio.sleep(0.002)

    groups = {
        service: [stage.subscriber(service, take_time) for _ in range(3)] for service in ("Mail", "Audit", "Store")
    }
    for process in range(3):
        await world.serve(*(members[process] for members in groups.values()))
    names = [str(number) for number in range(300)]
    publisher = await world.publisher()
    await asyncio.gather(*(publisher.publish(stage.placed(name)) for name in names))
    for members in groups.values():
        handled = lambda members=members: list(itertools.chain(*(member.ids for member in members)))  # noqa: E731
        await until(lambda handled=handled: len(handled()) >= len(names))
        assert sorted(handled()) == sorted(names)
    assert all(member.done for member in groups["Mail"]), "all three have had some"


async def test_what_was_published_before_anybody_subscribed_is_handled(world: World) -> None:
    await publish(world, 1, 2, 3)
    subscriber = stage.subscriber("Mail")
    await world.serve(subscriber)
    await until(lambda: sorted(subscriber.ids) == ["1", "2", "3"])


async def test_a_group_that_starts_late_gets_what_comes_after_it(world: World) -> None:
    await publish(world, "before")
    late, mail = stage.subscriber("Late"), stage.subscriber("Mail")
    server = await world.serve(late, mail)
    await publish(world, "after")
    await until(lambda: late.ids == ["after"])
    await until(lambda: len(mail.ids) == 2)
    await server.stop(1)
    # It has been there before: what came meanwhile is not missed.
    await publish(world, "while it was away")
    again = stage.subscriber("Late")
    await world.serve(again)
    await until(lambda: again.ids == ["while it was away"])


async def test_what_a_handler_learns_of_its_events(world: World) -> None:
    seen: list[Any] = []

    async def look(_events: Any, context: Any) -> None:
        seen.extend(context.deliveries)
        if context.deliveries[0].attempt == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "again")

    await world.serve(stage.subscriber("Mail", look))
    before = time.time()
    await publish(world, "a")
    await until(lambda: len(seen) == 2)
    assert [(each.id, each.sequence, each.attempt) for each in seen] == [("id-a", 1, 1), ("id-a", 1, 2)]
    assert before - 1 < seen[0].published == seen[1].published < time.time() + 1


# --------------------------------------------------------------------------------------------------------- batches


def sizes(subscriber: Subscriber) -> list[int]:
    return [len(events) for events in subscriber.got]


async def test_batches_by_size(world: World) -> None:
    await publish(world, *range(30))
    subscriber = stage.subscriber("Store")
    await world.serve(subscriber)
    await until(lambda: len(subscriber.done) == 30)
    assert sizes(subscriber) == [10, 10, 10]
    assert subscriber.ids == [str(number) for number in range(30)]
    assert await until(lambda: world.settled(STORE))


async def test_batches_by_time(world: World) -> None:
    subscriber = stage.subscriber("Store")  # max_batch_wait: 0.3 s
    await world.serve(subscriber)
    await publish(world, *range(3))
    began = time.monotonic()
    await until(lambda: len(subscriber.done) == 3)
    assert sizes(subscriber) == [3]
    assert time.monotonic() - began < 2
    await publish(world, "one more")
    await until(lambda: len(subscriber.done) == 4)
    assert sizes(subscriber) == [3, 1]


async def test_a_poison_event_goes_to_the_dead_letters_alone(world: World) -> None:
    async def refuse(events: Any, context: Any) -> None:
        if any(event.id == "4" for event in events):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no such thing as four")

    subscriber = stage.subscriber("Store", refuse)
    await publish(world, *range(10))
    await world.serve(subscriber)
    await until(lambda: len(subscriber.done) == 9)
    (letter,) = await until(world.dead_letters)
    assert stage.pb.Placed.FromString(letter.data) == stage.placed(4)
    assert letter.subject == f"{world.prefix}.dead.events.stage.v1.Store.StorePlaced.5"
    assert letter.headers["natsmesh-error-code"] == "INVALID_ARGUMENT"
    assert letter.headers["natsmesh-error-message"] == "no such thing as four"
    assert letter.headers["natsmesh-attempts"] == "1"
    assert letter.headers["natsmesh-subject"] == f"{world.prefix}.events.stage.v1.Placed"
    assert sorted(subscriber.ids) == sorted(str(number) for number in range(10) if number != 4)
    assert sizes(subscriber) == [10] + [1] * 10
    assert await until(lambda: world.settled(STORE))


async def test_a_batch_that_is_unavailable_comes_again_as_a_whole(world: World) -> None:
    async def down_at_first(_events: Any, context: Any) -> None:
        if len(subscriber.got) <= 2:
            await context.retry_later(0.1, "the database restarts")

    subscriber = stage.subscriber("Store", down_at_first)
    await publish(world, *range(10))
    await world.serve(subscriber)
    await until(lambda: len(subscriber.done) == 10)
    assert sizes(subscriber) == [10, 10, 10]
    assert [attempts[0] for attempts in subscriber.attempts] == [1, 2, 3]
    assert not await world.dead_letters()


async def test_an_event_that_cannot_be_read_is_a_dead_letter_and_the_others_are_handled(world: World) -> None:
    await publish(world, 1)
    await world.js.publish(world.subjects.event("stage.v1.Placed"), b"\xff\xff not protobuf", {})
    await publish(world, 2)
    alone, batched = stage.subscriber("Mail"), stage.subscriber("Store")
    await world.serve(alone, batched)
    await until(lambda: sorted(alone.ids) == sorted(batched.ids) == ["1", "2"])
    letters = await until(lambda: _of_both(world))
    assert all(letter.data == b"\xff\xff not protobuf" for letter in letters)


async def _of_both(world: World) -> list[Any]:
    letters = await world.dead_letters()
    return letters if len(letters) == 2 else []


async def test_a_method_that_a_servicer_lacks_is_left_to_others(world: World) -> None:
    """Generated code has every method, which answers UNIMPLEMENTED: that must not be how events end."""

    class Half(stage.grpc.BothServicer):
        def __init__(self) -> None:
            self.got: list[Any] = []

    class First(Half):
        async def OnPlaced(self, event: Any, context: Any) -> Any:
            self.got.append(event)
            return empty_pb2.Empty()

    class Second(Half):
        async def OnMoved(self, event: Any, context: Any) -> Any:
            self.got.append(event)
            return empty_pb2.Empty()

    first, second = First(), Second()
    for servicer in (first, second):
        server = rpc.Server(world.url, prefix=world.prefix)
        stage.grpc.add_BothServicer_to_server(servicer, server)
        world.servers.append(server)
        await server.start()
    publisher = await world.publisher()
    for number in range(20):
        await publisher.publish(stage.placed(number))
        await publisher.publish(stage.moved("A", number))
    await until(lambda: len(first.got) == len(second.got) == 20)
    assert not await world.dead_letters()


# ---------------------------------------------------------------------------------------------------------- attempts


async def test_retried_by_the_policy_then_a_dead_letter(world: World) -> None:
    async def fail(events: Any, _context: Any) -> None:
        if events[0].id == "bad":
            raise RuntimeError("a bug")

    subscriber = stage.subscriber("Mail", fail)  # max_attempts: 3
    await world.serve(subscriber)
    await publish(world, "bad", "good")
    (letter,) = await until(world.dead_letters)
    assert subscriber.ids == ["good"]
    assert [attempts for events, attempts in zip(subscriber.got, subscriber.attempts, strict=True)
            if events[0].id == "bad"] == [[1], [2], [3]]  # fmt: skip
    assert letter.headers["natsmesh-error-code"] == StatusCode.UNKNOWN.name
    assert letter.headers["natsmesh-attempts"] == "3"
    assert await until(lambda: world.settled(MAIL))


async def test_no_more_than_max_concurrency_run_at_once(world: World) -> None:
    async def take_time(_events: Any, _context: Any) -> None:
        await asyncio.sleep(0.01)

    subscriber = stage.subscriber("Mail", take_time)
    await publish(world, *range(40))
    await world.serve(subscriber)
    await until(lambda: len(subscriber.done) == 40)
    assert subscriber.most == 4


async def test_a_long_handler_keeps_its_event(world: World) -> None:
    async def long(_events: Any, _context: Any) -> None:
        await asyncio.sleep(2.2)  # more than twice the ack_wait

    first, second = stage.subscriber("Audit", long), stage.subscriber("Audit", long)
    await world.serve(first)
    await world.serve(second)
    await publish(world, "long")
    await until(lambda: first.done or second.done)
    assert await until(lambda: world.settled("stage_v1_Audit-OnPlaced"))
    assert len(first.got) + len(second.got) == 1


# ------------------------------------------------------------------------------------------------------------ replay


async def test_a_group_whose_consumer_is_deleted_gets_all_that_is_kept_once_more(world: World) -> None:
    await publish(world, 1, 2, 3)
    subscriber = stage.subscriber("Mail")
    await world.serve(subscriber)
    await until(lambda: sorted(subscriber.ids) == ["1", "2", "3"])
    assert await until(lambda: world.settled(MAIL))
    stream = world.subjects.jetstream("EVENTS", "stage.v1.Placed")
    await world.js.request(f"CONSUMER.DELETE.{stream}.{MAIL}")
    await until(lambda: sorted(subscriber.ids) == sorted(["1", "2", "3"] * 2))
    await publish(world, 4)
    await until(lambda: subscriber.ids[-1] == "4")
