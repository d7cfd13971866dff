"""Client and server interceptors, joined in one process over a transport that copies metadata."""

import asyncio
import contextvars
from typing import Never

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode

from rpc.call import Call, Handler, compose
from rpc.method import MethodInfo
from rpc.status import Refusal, StatusError
from rpc.telemetry.propagation import W3CPropagator, valid_traceparent
from rpc.telemetry.sampling import HeadSampler, PresetIdGenerator
from rpc.telemetry.tracing import Tracing, attempt_failed, client_interceptor, server_interceptor

HELLO = MethodInfo("greeter.v1.Greeter", "SayHello")
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class World:
    """One traced client and server; ``wire`` holds the metadata that went over."""

    def __init__(
        self, sampler: str = "parentbased_always_on", rate: float = 1.0, *, own_provider: bool = False
    ) -> None:
        self.exporter = InMemorySpanExporter()
        samplers = {"traceidratio": TraceIdRatioBased, "parentbased_traceidratio": ParentBasedTraceIdRatio}
        sdk_sampler = samplers[sampler](rate) if sampler in samplers else None
        ids = None if own_provider else PresetIdGenerator()
        provider = TracerProvider(sampler=sdk_sampler, id_generator=ids, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        head = None if own_provider else HeadSampler(sampler, rate)
        self.tracing = Tracing(provider, W3CPropagator(), head, "1")
        self.wire = []
        self.attempts = 1
        self.refusals = 0

    def client(self, handler: Handler) -> Handler:
        serve = compose([server_interceptor(self.tracing)], handler)

        async def transport(call: Call) -> None:
            if self.refusals:
                self.refusals -= 1
                raise Refusal("all are busy", "queue-full")
            self.wire.append(dict(call.metadata))
            arriving = Call(call.info, metadata=call.metadata)
            # Another process knows nothing of the caller's context variables.
            await asyncio.get_running_loop().create_task(serve(arriving), context=contextvars.Context())

        async def retry(call: Call, handler: Handler) -> None:
            while True:
                try:
                    return await handler(call)
                except Refusal as error:
                    attempt_failed(error, call.attempt, 0.25)
                    call.attempt += 1

        return compose([client_interceptor(self.tracing), retry], transport)

    def spans(self) -> dict[tuple[str, str], ReadableSpan]:
        return {(span.kind.name, span.name): span for span in self.exporter.get_finished_spans()}


async def answer(call: Call) -> None:
    call.response = b"hello"


async def test_one_call_is_a_client_and_a_server_span() -> None:
    world = World()
    await world.client(answer)(Call(HELLO, metadata=(("x", "y"),)))
    spans = world.spans()
    client, server = spans["CLIENT", "greeter.v1.Greeter/SayHello"], spans["SERVER", "greeter.v1.Greeter/SayHello"]
    assert client.parent is None
    assert server.parent.span_id == client.context.span_id
    assert server.context.trace_id == client.context.trace_id
    for span in (client, server):
        assert dict(span.attributes) == {
            "rpc.system.name": "grpc",
            "rpc.method": "greeter.v1.Greeter/SayHello",
            "server.address": "greeter.v1.Greeter",
            "rpc.response.status_code": "OK",
        }
        assert span.status.status_code is StatusCode.UNSET
        assert span.instrumentation_scope.name == "natsmesh"
    assert world.wire[0]["x"] == "y"
    assert valid_traceparent(world.wire[0]["traceparent"])


async def test_the_servers_span_is_current_in_the_handler_and_calls_nest() -> None:
    world = World()
    inner = world.client(answer)

    async def outer(call: Call) -> None:
        with world.tracing.tracer.start_as_current_span("of the application"):
            await inner(Call(MethodInfo("b.B", "Nested")))

    await world.client(outer)(Call(MethodInfo("a.A", "Outer")))
    spans = world.spans()
    chain = [
        spans["CLIENT", "a.A/Outer"],
        spans["SERVER", "a.A/Outer"],
        spans["INTERNAL", "of the application"],
        spans["CLIENT", "b.B/Nested"],
        spans["SERVER", "b.B/Nested"],
    ]
    assert [span.parent and span.parent.span_id for span in chain] == [None] + [s.context.span_id for s in chain[:-1]]
    assert not trace.get_current_span().get_span_context().is_valid


SERVER_ERRORS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
async def test_status_codes(code: StatusCode) -> None:
    world = World()

    async def fail(call: Call) -> Never:
        raise StatusError(code, "because")

    with pytest.raises(StatusError):
        await world.client(fail)(Call(HELLO))
    client, server = world.spans()["CLIENT", HELLO.full_name], world.spans()["SERVER", HELLO.full_name]
    assert client.attributes["rpc.response.status_code"] == server.attributes["rpc.response.status_code"] == code.name
    assert (client.status.status_code, client.status.description) == (StatusCode.ERROR, "because")
    assert client.attributes["error.type"] == code.name
    if code.name in SERVER_ERRORS:
        assert (server.status.status_code, server.attributes["error.type"]) == (StatusCode.ERROR, code.name)
    else:
        assert server.status.status_code is StatusCode.UNSET
        assert "error.type" not in server.attributes
    assert not client.events
    assert not server.events


async def test_an_unexpected_exception_is_an_event_on_the_servers_span_only() -> None:
    world = World()

    async def crash(call: Call) -> None:
        try:
            raise ZeroDivisionError("the text stays here")
        except ZeroDivisionError as error:
            raise StatusError(grpc.StatusCode.UNKNOWN, "Unexpected exception") from error

    with pytest.raises(StatusError):
        await world.client(crash)(Call(HELLO))
    (event,) = world.spans()["SERVER", HELLO.full_name].events
    assert event.name == "exception"
    assert event.attributes["exception.type"] == "ZeroDivisionError"
    assert event.attributes["exception.message"] == "the text stays here"
    assert "crash" in event.attributes["exception.stacktrace"]


@pytest.mark.parametrize("reason", [None, grpc.StatusCode.DEADLINE_EXCEEDED])
async def test_cancellation(reason: StatusCode | None) -> None:
    world = World()
    running = asyncio.Event()

    async def hang(call: Call) -> None:
        running.set()
        await asyncio.Event().wait()

    call = Call(HELLO)
    task = asyncio.ensure_future(world.client(hang)(call))
    await running.wait()
    if reason is not None:
        call.cancel(reason, "too late")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    client = world.spans()["CLIENT", HELLO.full_name]
    expected = "CANCELLED" if reason is None else reason.name
    assert client.attributes["rpc.response.status_code"] == expected
    assert client.status.status_code is StatusCode.ERROR


async def test_sending_again_is_an_event_on_the_one_client_span() -> None:
    world = World()
    world.refusals = 2
    await world.client(answer)(Call(HELLO))
    client = world.spans()["CLIENT", HELLO.full_name]
    assert client.attributes["natsmesh.attempts"] == 3
    assert [(event.name, dict(event.attributes)) for event in client.events] == [
        (
            "natsmesh.attempt.failed",
            {
                "natsmesh.attempt": attempt,
                "rpc.response.status_code": "UNAVAILABLE",
                "natsmesh.retry.delay": 0.25,
                "natsmesh.refusal.reason": "queue-full",
            },
        )
        for attempt in (1, 2)
    ]
    assert world.spans()["SERVER", HELLO.full_name].parent.span_id == client.context.span_id


@pytest.mark.parametrize("own_provider", [False, True])
@pytest.mark.parametrize("flags", ["00", "01"])
async def test_the_parents_decision_is_kept(own_provider: bool, flags: str) -> None:
    world = World(own_provider=own_provider)
    arriving = Call(HELLO, metadata=(("traceparent", f"00-{TRACE}-{SPAN}-{flags}"), ("tracestate", "vendor=1")))
    inner = world.client(answer)
    where = []

    async def outer(call: Call) -> None:
        where.append(trace.get_current_span().get_span_context())
        await inner(Call(MethodInfo("b.B", "Nested")))

    await server_interceptor(world.tracing)(arriving, outer)
    assert f"{where[0].trace_id:032x}" == TRACE
    assert len(world.exporter.get_finished_spans()) == (3 if flags == "01" else 0)
    assert world.wire[0]["traceparent"].startswith(f"00-{TRACE}-")
    assert world.wire[0]["traceparent"].endswith(flags)
    assert world.wire[0]["tracestate"] == "vendor=1"


@pytest.mark.parametrize("own_provider", [False, True])
async def test_a_trace_that_is_not_sampled_stays_so_downstream(own_provider: bool) -> None:
    world = World("parentbased_traceidratio", 0.0, own_provider=own_provider)
    await world.client(answer)(Call(HELLO))
    assert not world.exporter.get_finished_spans()
    assert valid_traceparent(world.wire[0]["traceparent"])[-1] in "02468ace"


@pytest.mark.parametrize("sampler", ["parentbased_traceidratio", "traceidratio"])
async def test_sampled_traces_are_whole(sampler: str) -> None:
    world = World(sampler, 0.3)
    for _ in range(300):
        await world.client(answer)(Call(HELLO))
    spans = world.exporter.get_finished_spans()
    assert 2 * 40 < len(spans) < 2 * 160
    by_trace = {}
    for span in spans:
        by_trace.setdefault(span.context.trace_id, []).append(span.kind)
    assert all(kinds == [SpanKind.SERVER, SpanKind.CLIENT] for kinds in by_trace.values())


async def test_a_sampler_that_ignores_its_parent_gets_a_new_parent_id_when_it_declines() -> None:
    world = World("traceidratio", 0.0)
    inner = world.client(answer)

    async def outer(call: Call) -> None:
        await inner(Call(MethodInfo("b.B", "Nested")))

    arriving = Call(HELLO, metadata=(("traceparent", f"00-{TRACE}-{SPAN}-01"),))
    await server_interceptor(world.tracing)(arriving, outer)
    sent = world.wire[0]["traceparent"]
    assert sent.startswith(f"00-{TRACE}-")
    assert SPAN not in sent
    assert sent.endswith("-00")


async def test_garbage_from_a_peer_starts_a_new_trace() -> None:
    world = World()
    await server_interceptor(world.tracing)(
        Call(HELLO, metadata=(("traceparent", "00-zz"), ("tracestate", "x"))), answer
    )
    (server,) = world.exporter.get_finished_spans()
    assert server.parent is None


async def test_names_that_callers_make_up_are_no_span_names() -> None:
    world = World()

    async def refuse(call: Call) -> None:
        raise StatusError(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")

    serve = server_interceptor(world.tracing, lambda info: info.name == "SayHello")
    with pytest.raises(StatusError):
        await serve(Call(MethodInfo("greeter.v1.Greeter", "Made-Up")), refuse)
    await serve(Call(HELLO), answer)
    unknown, known = world.exporter.get_finished_spans()
    assert unknown.name == "grpc"
    assert unknown.attributes["rpc.method"] == "_OTHER"
    assert unknown.attributes["rpc.method_original"] == "greeter.v1.Greeter/Made-Up"
    assert known.name == "greeter.v1.Greeter/SayHello"


async def test_a_span_of_the_application_is_the_parent_of_a_call() -> None:
    world = World()
    with world.tracing.tracer.start_as_current_span("job") as job:
        await world.client(answer)(Call(HELLO))
    assert world.spans()["CLIENT", HELLO.full_name].parent.span_id == job.get_span_context().span_id


async def test_a_thread_that_runs_in_the_callers_context_sees_the_span() -> None:
    world = World()
    seen = []

    async def threaded(call: Call) -> None:
        await asyncio.to_thread(lambda: seen.append(trace.get_current_span().get_span_context().span_id))

    await world.client(threaded)(Call(HELLO))
    assert seen == [world.spans()["SERVER", HELLO.full_name].context.span_id]
