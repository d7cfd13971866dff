"""What is decided about jobs and events, and what their messages carry, on a real broker in one process."""

import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBasedTraceIdRatio, Sampler

import rpc
from rpc import telemetry
from rpc.durable.context import DeliveredCall
from rpc.jetstream.api import JetStream
from rpc.jetstream.pull import PulledMessage
from rpc.method import MethodInfo
from rpc.status import StatusError
from rpc.subjects import Subjects
from rpc.telemetry.messaging import MAX_LINKS, Producer, consumer_interceptor
from rpc.telemetry.propagation import W3CPropagator
from rpc.telemetry.sampling import HeadSampler, LinkedSampler, PresetIdGenerator
from rpc.telemetry.tracing import Tracing
from tests.events.stage import STAGE, stage
from tests.generated import compile_contract

SAMPLED, UNSAMPLED = "01", "00"


@pytest.fixture(scope="module", autouse=True)
def _stage_code(tmp_path_factory: pytest.TempPathFactory) -> None:
    stage.use(compile_contract(STAGE, tmp_path_factory.mktemp("stage")))


class Arrived(NamedTuple):
    subject: str
    data: bytes
    reply: str
    headers: dict[str, str]


class World:
    """A traced process."""

    def __init__(self, sampler: str = "parentbased_always_on", rate: float = 1.0, **sdk: Sampler) -> None:
        self.exporter = InMemorySpanExporter()
        ours = LinkedSampler(ParentBasedTraceIdRatio(rate)) if sampler.startswith("parentbased") else None
        provider = TracerProvider(
            sampler=sdk.get("own", ours), id_generator=PresetIdGenerator(), shutdown_on_exit=False
        )
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracing = Tracing(provider, W3CPropagator(), None if sdk else HeadSampler(sampler, rate), "1")
        self.producer = Producer(self.tracing)

    def spans(self) -> Sequence[Any]:
        return self.exporter.get_finished_spans()

    async def deliver(self, *traceparents: str, method: str = "Store/StorePlaced") -> trace.SpanContext:
        """Handle messages of these producers ("" for one that says nothing), and return where the handler was."""
        service, _, name = method.partition("/")
        descriptor = stage.pb.DESCRIPTOR.services_by_name[service].methods_by_name[name]
        info = MethodInfo.from_descriptor(descriptor)
        messages = [
            PulledMessage(
                Arrived(
                    "events.stage.v1.Placed",
                    b"",
                    "$JS.ACK.EVENTS.group.1.7.7.1700000000000000000.0",
                    {"traceparent": traceparent} if traceparent else {},
                )
            )
            for traceparent in traceparents
        ]
        call = DeliveredCall(info)
        call.messages = messages
        call.job_id = "an id"
        where: list[trace.SpanContext] = []

        async def handler(_call: rpc.Call) -> None:
            where.append(trace.get_current_span().get_span_context())

        await consumer_interceptor(self.tracing, info)(call, handler)
        assert not trace.get_current_span().get_span_context().is_valid
        return where[0]


def traceparent(flags: str) -> str:
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-{flags}"


async def test_one_recorded_producer_of_many_has_the_batch_recorded() -> None:
    world = World(rate=0.0, sampler="parentbased_traceidratio")
    loud = traceparent(SAMPLED)
    where = await world.deliver(traceparent(UNSAMPLED), loud, "", traceparent(UNSAMPLED))
    (span,) = world.spans()
    assert where == span.context
    assert span.parent is None
    (link,) = span.links  # the others have no spans
    assert f"{link.context.trace_id:032x}" == loud[3:35]
    assert span.attributes["messaging.batch.message_count"] == 4


async def test_a_batch_of_very_many_has_a_bounded_number_of_links() -> None:
    world = World()
    await world.deliver(*(traceparent(SAMPLED) for _ in range(MAX_LINKS + 50)))
    (span,) = world.spans()
    assert len(span.links) == MAX_LINKS
    assert span.attributes["messaging.batch.message_count"] == MAX_LINKS + 50


async def test_what_no_producer_records_is_not_recorded_and_what_it_causes_neither() -> None:
    world = World()
    first, second = traceparent(UNSAMPLED), traceparent(UNSAMPLED)
    alone = await world.deliver(first, method="Mail/OnPlaced")
    assert f"{alone.trace_id:032x}" == first[3:35]
    batch = await world.deliver(first, second)
    assert batch.is_valid
    assert f"{batch.trace_id:032x}" not in {first[3:35], second[3:35]}
    assert not alone.trace_flags.sampled
    assert not batch.trace_flags.sampled
    assert not world.spans()


async def test_producers_that_say_nothing_leave_the_decision_to_the_consumer() -> None:
    for rate, count in ((1.0, 1), (0.0, 0)):
        world = World("parentbased_traceidratio", rate)
        where = await world.deliver("")
        assert where.is_valid
        assert len(world.spans()) == count


async def test_garbage_in_the_header_is_passed_over() -> None:
    world = World()
    await world.deliver("00-nonsense", method="Mail/OnPlaced")
    (span,) = world.spans()
    assert not span.links


async def test_samplers_that_follow_no_parents_follow_no_links() -> None:
    world = World("always_off")
    await world.deliver(traceparent(SAMPLED))
    assert not world.spans()
    world = World("always_on")
    await world.deliver(traceparent(UNSAMPLED))
    assert len(world.spans()) == 1


async def test_a_provider_of_the_applications_own_decides_itself() -> None:
    world = World(own=ALWAYS_OFF)
    await world.deliver(traceparent(SAMPLED))
    assert not world.spans()
    world = World(own=ParentBasedTraceIdRatio(1.0))
    producer = traceparent(SAMPLED)
    await world.deliver(producer)
    (span,) = world.spans()
    assert [f"{link.context.trace_id:032x}" for link in span.links] == [producer[3:35]]


# ------------------------------------------------------------------------------------------- what is published


class Bus:
    """Publishes on the shared broker, and reads what is stored."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.prefix = f"t{secrets.token_hex(4)}"
        self.connection: rpc.Connection

    def publisher(self, **options: Any) -> rpc.Publisher:
        return rpc.Publisher(self.connection, prefix=self.prefix, **options)

    async def headers(self) -> list[dict[str, str]]:
        """Return the headers of all events that are stored."""
        js = JetStream(self.connection)
        await js.start()
        try:
            found = await js.read(Subjects(self.prefix).jetstream("EVENTS", "stage.v1.Placed"), ">")
            return [message.headers for message in found]
        finally:
            await js.close()


@pytest.fixture
async def bus(nats_url: str) -> AsyncIterator[Bus]:
    bus = Bus(nats_url)
    bus.connection = await rpc.connect(nats_url)
    yield bus
    await bus.connection.close()


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[World], World]]:
    def use(world: World) -> World:
        monkeypatch.setattr(telemetry, "producer", lambda: world.producer)
        return world

    return use


async def test_without_tracing_messages_carry_nothing(bus: Bus) -> None:
    async with bus.publisher() as publisher:
        await publisher.publish(stage.placed(1), id="one")
    assert await bus.headers() == [{"Nats-Msg-Id": "one"}]


async def test_an_event_without_a_trace_begins_one(bus: Bus, traced: Callable[[World], World]) -> None:
    world = traced(World())
    async with bus.publisher() as publisher:
        await publisher.publish(stage.placed(1), id="one")
    (span,) = world.spans()
    assert (span.name, span.kind, span.parent) == ("send events.stage.v1.Placed", trace.SpanKind.PRODUCER, None)
    (headers,) = await bus.headers()
    assert headers["traceparent"] == f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-03"


async def test_unsampled_events_say_so(bus: Bus, traced: Callable[[World], World]) -> None:
    world = traced(World("parentbased_traceidratio", 0.0))
    async with bus.publisher() as publisher:
        await publisher.publish(stage.placed(1))
    assert not world.spans()
    (headers,) = await bus.headers()
    assert headers["traceparent"].endswith("-02")


async def test_what_waits_in_the_buffer_keeps_its_place(bus: Bus, traced: Callable[[World], World]) -> None:
    world = traced(World())
    async with bus.publisher() as publisher:
        for name in ("first", "second"):
            with world.tracing.tracer.start_as_current_span(name):
                publisher.offer(stage.placed(name), id=name)
        publisher.offer(stage.placed("third"), id="third")
        assert await publisher.flush(5)
    spans = {span.attributes.get("messaging.message.id", span.name): span for span in world.spans()}
    outer = [span for span in world.spans() if span.name in {"first", "second"}]
    assert len(outer) == 2
    for span in outer:
        (sent,) = [one for one in world.spans() if one.attributes.get("messaging.message.id") == span.name]
        assert sent.parent.span_id == span.context.span_id
    assert spans["third"].parent is None


async def test_events_of_programs_need_no_spans(bus: Bus, traced: Callable[[World], World]) -> None:
    world = traced(World())
    async with bus.publisher(trace=False) as publisher:
        await publisher.publish(stage.placed(1), id="one")
    assert not world.spans()
    assert await bus.headers() == [{"Nats-Msg-Id": "one"}]


async def test_a_refused_event_is_an_error(bus: Bus, traced: Callable[[World], World]) -> None:
    world = traced(World())
    async with bus.publisher() as publisher:
        with pytest.raises(StatusError):
            await publisher.publish(stage.placed(1, text="x" * bus.connection.max_payload))
    (span,) = world.spans()
    assert span.attributes["error.type"] == "RESOURCE_EXHAUSTED"
    assert span.status.status_code is trace.StatusCode.ERROR
