"""Options that are wrong are refused with a text that says whose they are, which, and what to do."""

import re
from collections.abc import Callable

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool

import rpc
from gateway.schema import SchemaError, load_schema
from rpc import MethodInfo
from rpc.durable.options import OptionsError, event_of
from rpc.testing import MemoryMesh
from tests.durable.contracts import compile_protos, pool_of

OPERATION = "google.longrunning.Operation"
INFO = 'option (google.longrunning.operation_info) = { response_type: "Out" };'
MESSAGES = """
message In { string text = 1; repeated string many = 2; double price = 3; Out out = 4; }
message Out {}
message Keyed { option (mesh.v1.event).key = "text"; string text = 1; }
"""


def operation(options: str, request: str = "In", answer: str = OPERATION) -> str:
    return f"rpc Do({request}) returns ({answer}) {{ {options} }}"


def job(options: str) -> str:
    """A job whose option (mesh.v1.method) is this."""
    return operation(f"{INFO} option (mesh.v1.method) = {{ {options} }};")


def handler(options: str, event: str = "In", answer: str = "google.protobuf.Empty") -> str:
    """A method that subscribes, whose option (mesh.v1.method) is this."""
    return f"rpc Do({event}) returns ({answer}) {{ option (mesh.v1.method) = {{ {options} }}; }}"


def retry(policy: str) -> str:
    return job(f"retry_policy: {{ {policy} }}")


def seconds(name: str, value: float) -> str:
    whole = int(value)
    return f"{name}: {{ seconds: {whole} nanos: {round((value - whole) * 1e9)} }}"


METHODS = {
    # What a method is.
    operation(""): f"operation_info: is missing: a method that returns {OPERATION} is a durable job",
    operation(INFO, "stream In"): "operation_info: a durable job takes one request and returns one Operation: remove",
    operation(INFO, answer=f"stream {OPERATION}"): "operation_info: a durable job takes one request and returns one",
    operation(INFO, answer="Out"): f"operation_info: is for methods that return {OPERATION}: leave it out",
    job("subscribe: {}"): "subscribe: a method is a job or handles events, not both: make two methods of it",
    handler("subscribe: {}", answer=OPERATION): "subscribe: a method is a job or handles events, not both",
    handler("retry_policy: {}", answer="Out"): "(mesh.v1.method): is for jobs (return google.longrunning.Operation",
    handler("", answer="Out"): "(mesh.v1.method): is for jobs",
    # operation_info.
    operation(INFO.replace("Out", "")): "operation_info.response_type: is missing: name the message",
    operation(INFO.replace("Out", "Outt")): "operation_info.response_type: 'Outt' is not found: write its full name",
    operation(
        INFO.replace("Out", "case0.Out")
    ): "'case0.Out' is not found: write its full name, and import its file in",
    operation(INFO.replace('"Out"', '"Out" metadata_type: "No"')): "operation_info.metadata_type: 'No' is not found",
    # retry_policy.
    retry("max_attempts: -1"): "retry_policy.max_attempts: -1 is not possible: it must be from 1 to 2147483647",
    retry(
        seconds("initial_backoff", 0)
    ): "retry_policy.initial_backoff: 0 s is not possible: it must be longer than 0 s",
    retry(seconds("initial_backoff", -1)): "retry_policy.initial_backoff: -1 s is not possible",
    retry("initial_backoff: { seconds: 1 nanos: -5 }"): "initial_backoff: is not a valid google.protobuf.Duration",
    retry(
        seconds("initial_backoff", 601)
    ): "retry_policy: initial_backoff, 601 s, is longer than max_backoff, 600 s: set",
    retry(
        seconds("max_backoff", 0.5)
    ): "retry_policy: initial_backoff, 1 s, is longer than max_backoff, 0.5 s: set both",
    retry(seconds("max_backoff", 2**33)): "retry_policy.max_backoff: 8.58993e+09 s is not possible",
    retry("backoff_multiplier: 0.99"): "retry_policy.backoff_multiplier: 0.99 is not possible: it must be from 1 on",
    retry("backoff_multiplier: nan"): "retry_policy.backoff_multiplier: nan is not possible",
    retry("backoff_multiplier: inf"): "retry_policy.backoff_multiplier: inf is not possible",
    retry("jitter: 1.1"): "retry_policy.jitter: 1.1 is not possible: it must be from 0 to 1",
    retry("jitter: -0.1"): "retry_policy.jitter: -0.1 is not possible",
    retry("jitter: nan"): "retry_policy.jitter: nan is not possible",
    retry("retryable_status_codes: [UNAVAILABLE, OK]"): "retryable_status_codes: 0 is not a failure: name codes of",
    # The others.
    job(seconds("timeout", 0)): "timeout: 0 s is not possible: it must be longer than 0 s",
    job(seconds("ack_wait", 0.9)): "ack_wait: 0.9 s is not possible: it must be from 1 s on",
    job("max_concurrency: 10001"): "max_concurrency: 10001 is not possible: it must be from 1 to 10000",
    job("max_concurrency: -1"): "max_concurrency: -1 is not possible",
    job(seconds("result_ttl", 0.5)): "result_ttl: 0.5 s is not possible: it must be from 1 s on",
    job('schedule: "* * * * *"'): "schedule: '* * * * *' must have six fields, seconds first",
    job('schedule: "@never"'): "schedule: '@never' is not known: there are @every and @annually",
    # Events.
    handler(
        "subscribe: {}", answer="Out"
    ): "subscribe: nobody reads what it answers: return google.protobuf.Empty, not",
    handler(
        "subscribe: {}", answer="stream google.protobuf.Empty"
    ): "subscribe: nobody reads what it answers: remove 'str",
    handler('subscribe: {} schedule: "@daily"'): "schedule: is for jobs, and this method handles events: leave it out",
    handler("subscribe: {} result_ttl: {}"): "result_ttl: is for jobs, and this method handles events: leave it out",
    handler(
        "subscribe: { max_batch_size: 5 }"
    ): "subscribe.max_batch_size: is for batches: take a stream of events, (In)",
    handler("subscribe: { max_batch_wait: {} }"): "subscribe.max_batch_wait: is for batches: take a stream of events",
    handler(
        "subscribe: { max_batch_size: 10001 }", "stream In"
    ): "max_batch_size: 10001 is not possible: it must be from",
    handler("subscribe: { max_batch_wait: {} }", "stream In"): "subscribe.max_batch_wait: 0 s is not possible",
    handler(
        "subscribe: { ordered: true }", "stream Keyed"
    ): "subscribe.ordered: is not for batches: take one event at a",
    handler("subscribe: { ordered: true }"): ".In has no key: give it option (mesh.v1.event).key, or leave this out",
    handler("subscribe: {} max_concurrency: 10001"): "max_concurrency: 10001 is not possible",
    handler("subscribe: {} retry_policy: { max_attempts: -1 }"): "retry_policy.max_attempts: -1 is not possible",
}
EVENTS = {
    'key: "colour"': "key: 'colour' is not a field of {event}: there are text, many, price, out",
    'key: "many"': "key: 'many' must be a single string, bytes, bool, enum or integer",
    'key: "price"': "key: 'price' must be a single",
    'key: "out"': "key: 'out' must be a single",
    'key: "text" partitions: 257': "partitions: 257 is not possible: it must be from 1 to 256",
    'key: "text" partitions: -1': "partitions: -1 is not possible",
    "partitions: 4": "partitions: without a key there is nothing to spread",
    "max_age: {}": "max_age: 0 s is not possible: it must be from 1 s on",
    "max_bytes: -1": "max_bytes: -1 is not possible: leave it out for no limit",
}


@pytest.fixture(scope="module")
def files() -> FileDescriptorSet:
    """Each case in a file and package of its own, all compiled at once."""
    texts = {}
    for number, method in enumerate(METHODS):
        name = f"case{number}"
        texts[f"{name}.proto"] = f"package {name}; {MESSAGES} service Case {{ {method} }}"
    for number, options in enumerate(EVENTS):
        name = f"event{number}"
        event = MESSAGES.replace("message In {", f"message In {{ option (mesh.v1.event) = {{ {options} }};")
        method = "rpc On(In) returns (google.protobuf.Empty) { option (mesh.v1.method).subscribe = {}; }"
        texts[f"{name}.proto"] = f"package {name}; {event} service Case {{ {method} }}"
    return compile_protos(texts)


@pytest.fixture(scope="module")
def pool(files: FileDescriptorSet) -> DescriptorPool:
    return pool_of(files)


def text_of(call: Callable[[], object]) -> str:
    with pytest.raises(OptionsError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize("method", METHODS)
def test_methods(pool: DescriptorPool, method: str) -> None:
    package = f"case{list(METHODS).index(method)}"
    text = text_of(lambda: MethodInfo.from_descriptor(pool.FindServiceByName(f"{package}.Case").methods[0]))
    assert text.startswith(f"{package}.Case/Do: ")
    assert METHODS[method] in text
    assert len(text) < 300, "it is one line of a log"


@pytest.mark.parametrize("options", EVENTS)
def test_events(pool: DescriptorPool, options: str) -> None:
    package = f"event{list(EVENTS).index(options)}"
    expected = EVENTS[options].format(event=f"{package}.In")
    text = text_of(lambda: event_of(pool.FindMessageTypeByName(f"{package}.In")))
    assert text.startswith(f"{package}.In: {expected}")
    method = pool.FindServiceByName(f"{package}.Case").methods[0]
    assert text_of(lambda: MethodInfo.from_descriptor(method)) == text, "whoever subscribes is told"


def test_codes_and_places_that_nobody_knows() -> None:
    """Enumerations are open: a newer .proto may have values that this version does not know."""
    texts = {
        "code.proto": f"package code; {MESSAGES} service Case {{ {retry('retryable_status_codes: [UNAVAILABLE]')} }}",
        "start.proto": f"package start; {MESSAGES} service Case {{ {handler('subscribe: { start: START_LATEST }')} }}",
    }
    found = compile_protos(texts)
    for file, known, newer, text in (
        (
            "code.proto",
            b"\x2a\x01\x0e",
            b"\x2a\x01\x63",
            "code.Case/Do: retry_policy.retryable_status_codes: 99 is not",
        ),
        ("start.proto", b"\x20\x02", b"\x20\x09", "start.Case/Do: subscribe.start: 9 is not known: START_EARLIEST or"),
    ):
        options = next(each for each in found.file if each.name == file).service[0].method[0].options
        data = options.SerializeToString()
        assert data.count(known) == 1
        options.ParseFromString(data.replace(known, newer))
        method = pool_of(found).FindServiceByName(f"{file.removesuffix('.proto')}.Case").methods[0]
        assert text_of(lambda method=method: MethodInfo.from_descriptor(method)).startswith(text)


async def test_neither_servers_nor_stubs_begin_with_them(memory_mesh: MemoryMesh) -> None:
    text = f"package wrong; {MESSAGES} service Wrong {{ {retry('jitter: 1.1')} rpc Fine(In) returns (Out); }}"
    descriptor_pool.Default().Add(compile_protos({"wrong.proto": text}).file[-1])
    server = rpc.Server(memory_mesh.connection())
    server.add_registered_method_handlers("wrong.Wrong", {})
    with pytest.raises(OptionsError, match=r"wrong\.Wrong/Do: retry_policy\.jitter"):
        await server.start()
    await server.stop(None)
    async with rpc.Channel(memory_mesh.connection()) as channel:
        channel.unary_unary("/wrong.Wrong/Fine")
        with pytest.raises(OptionsError, match=r"wrong\.Wrong/Do: retry_policy\.jitter"):
            channel.unary_unary("/wrong.Wrong/Do")


def test_a_gateway_refuses_such_a_service_alone(files: FileDescriptorSet) -> None:
    number = list(METHODS).index(retry("jitter: 1.1"))
    with pytest.raises(SchemaError, match=re.escape(f"case{number}.Case/Do: retry_policy.jitter: 1.1")):
        load_schema(files.SerializeToString(), f"case{number}.Case")


def test_a_gateway_knows_jobs_and_subscriptions() -> None:
    text = f"package fine; {MESSAGES} service Case {{ {job('max_concurrency: 3')} }}"
    more = f"package more; {MESSAGES} service Case {{ {handler('subscribe: {}', 'Keyed')} }}"
    data = compile_protos({"fine.proto": text, "more.proto": more}).SerializeToString()
    (method,) = load_schema(data, "fine.Case").methods
    assert method.info.job is not None
    assert method.info.job.max_concurrency == 3
    (method,) = load_schema(data, "more.Case").methods
    assert method.info.subscription is not None
    assert method.info.subscription.event_options.key == "text"
