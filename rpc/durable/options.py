"""What a ``.proto`` says of jobs and events, checked, with the defaults applied.

Options are read from descriptors of any pool: that of the generated code, or one that a gateway made of a schema. What
``mesh/v1/options.proto`` does not allow ends in ``OptionsError``, when a server or a stub is made: never later.

Source of the rules: the comments of ``mesh/v1/options.proto``; AIP-151 for ``operation_info``.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

import grpc
from google.longrunning import operations_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

from mesh.v1 import options_pb2
from rpc.durable.marks import OPERATION, may_be_durable
from rpc.durable.reading import OptionsError, Reader, seen_by
from rpc.durable.schedule import check_schedule

__all__ = [
    "EventOptions",
    "JobOptions",
    "OptionsError",
    "RetryOptions",
    "Start",
    "SubscriptionOptions",
    "event_of",
    "job_of",
    "options_of",
    "subscription_of",
]

DEFAULT_RETRYABLE = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)
"""The codes that may get better, where the ``.proto`` names none."""


class Start(enum.Enum):
    """Where a group of subscribers begins that has never been there before."""

    EARLIEST = "earliest"
    """With the oldest event that is kept."""

    LATEST = "latest"
    """With the first event after the group was made."""


@dataclass(frozen=True, slots=True)
class RetryOptions:
    """``retry_policy``: when a request whose handler failed is handled again. Delays in seconds."""

    max_attempts: int = 10
    initial_backoff: float = 1.0
    max_backoff: float = 600.0
    backoff_multiplier: float = 2.0
    jitter: float = 0.2
    retryable_codes: frozenset[grpc.StatusCode] = DEFAULT_RETRYABLE


@dataclass(frozen=True, slots=True)
class JobOptions:
    """A method that is a durable job. Times in seconds; names of types are full names."""

    service: str
    method: str
    response_type: str
    """What the handler returns, and what the operation's response is."""
    metadata_type: str
    """What the handler reports as progress; "" when ``operation_info`` names none."""
    retry: RetryOptions
    timeout: float | None
    ack_wait: float
    max_concurrency: int
    result_ttl: float
    schedule: str
    """A schedule as the broker takes it, "" for none."""
    request_id_field: int
    """The number of the request's field ``request_id``, a string: 0 when it has none."""


@dataclass(frozen=True, slots=True)
class EventOptions:
    """How events of one type are kept. Seconds and bytes."""

    message: str
    key: str
    """The name of the field whose equal values are kept in order, "" for none."""
    key_field: int
    """Its number, 0 for none."""
    partitions: int
    """Over how many subjects the keys are spread; 1 without a key."""
    max_age: float
    max_bytes: int | None


@dataclass(frozen=True, slots=True)
class SubscriptionOptions:
    """A method that handles events. Times in seconds."""

    service: str
    method: str
    event: str
    """Full name of the event's type."""
    batched: bool
    """Whether the method takes a stream of events, a batch, instead of one."""
    max_batch_size: int
    """1 for a method that is not batched."""
    max_batch_wait: float
    """0 for a method that is not batched."""
    ordered: bool
    start: Start
    retry: RetryOptions
    timeout: float | None
    ack_wait: float
    max_concurrency: int
    event_options: EventOptions


MAX_BATCH = 10_000
MAX_CONCURRENCY = 10_000
MAX_ATTEMPTS = 2**31 - 1
MAX_PARTITIONS = 256
DAY = 86400.0

_OPERATIONS = "google.longrunning.Operations"
_EMPTY = "google.protobuf.Empty"
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_KEY_TYPES = frozenset(
    {
        FieldDescriptor.CPPTYPE_STRING,
        FieldDescriptor.CPPTYPE_BOOL,
        FieldDescriptor.CPPTYPE_ENUM,
        FieldDescriptor.CPPTYPE_INT32,
        FieldDescriptor.CPPTYPE_INT64,
        FieldDescriptor.CPPTYPE_UINT32,
        FieldDescriptor.CPPTYPE_UINT64,
    }
)


def job_of(method: MethodDescriptor) -> JobOptions | None:
    """Return what is said of a method that is a durable job, None for all others. Raises ``OptionsError``."""
    return options_of(method)[0]


def subscription_of(method: MethodDescriptor) -> SubscriptionOptions | None:
    """Return what is said of a method that handles events, None for all others. Raises ``OptionsError``."""
    return options_of(method)[1]


def options_of(method: MethodDescriptor) -> tuple[JobOptions | None, SubscriptionOptions | None]:
    """Return what ``job_of`` and ``subscription_of`` do. Raises ``OptionsError``."""
    options = method.GetOptions()
    if not may_be_durable(method, options):
        return None, None
    service, file = method.containing_service.full_name, method.containing_service.file
    read = Reader(f"{service}/{method.name}")
    info: Any = read.extension(file, options, operations_pb2.operation_info)
    mesh: Any = read.extension(file, options, options_pb2.method)
    if mesh is not None and mesh.HasField("subscribe"):
        if info is not None or method.output_type.full_name == OPERATION:
            raise read.error("subscribe", "a method is a job or handles events, not both: make two methods of it")
        return None, _subscription(method, read, mesh)
    is_job = method.output_type.full_name == OPERATION
    if info is not None and not is_job:
        raise read.error("operation_info", f"is for methods that return {OPERATION}: leave it out, or return one")
    if info is None and is_job and service != _OPERATIONS:
        raise read.error(
            "operation_info",
            f"is missing: a method that returns {OPERATION} is a durable job, "
            "and says with option (google.longrunning.operation_info) what comes of it",
        )
    if info is not None:
        return _job(method, read, info, options_pb2.MethodOptions() if mesh is None else mesh), None
    if mesh is not None:
        raise read.error(
            "(mesh.v1.method)",
            "is for jobs (return google.longrunning.Operation, with operation_info) and for methods that subscribe: "
            "leave it out",
        )
    return None, None


def event_of(message: Descriptor) -> EventOptions:
    """Return how events of a type are kept: the defaults where nothing is said. Raises ``OptionsError``."""
    read = Reader(message.full_name)
    options = read.extension(message.file, message.GetOptions(), options_pb2.event) or options_pb2.EventOptions()
    key_field = _key_field(message, read, options.key) if options.key else 0
    if options.partitions and not options.key:
        raise read.error(
            "partitions", "without a key there is nothing to spread: say which field is the key, or leave it out"
        )
    if options.max_bytes < 0:
        raise read.error("max_bytes", f"{options.max_bytes} is not possible: leave it out for no limit")
    return EventOptions(
        message=message.full_name,
        key=options.key,
        key_field=key_field,
        partitions=read.integer(options, "partitions", 16 if options.key else 1, MAX_PARTITIONS),
        max_age=read.seconds(options, "max_age", 7 * DAY, least=1.0),
        max_bytes=options.max_bytes or None,
    )


def _job(method: MethodDescriptor, read: Reader, info: Any, mesh: Any) -> JobOptions:
    if method.client_streaming or method.server_streaming:
        raise read.error("operation_info", "a durable job takes one request and returns one Operation: remove 'stream'")
    if mesh.schedule:
        try:
            check_schedule(mesh.schedule)
        except ValueError as error:
            raise read.error("schedule", str(error)) from None
    if not info.response_type:
        raise read.error("operation_info.response_type", "is missing: name the message that the job ends with")
    request_id = method.input_type.fields_by_name.get("request_id")
    is_id = request_id is not None and request_id.type == FieldDescriptor.TYPE_STRING and not request_id.is_repeated
    return JobOptions(
        service=method.containing_service.full_name,
        method=method.name,
        response_type=_type(method, read, "operation_info.response_type", info.response_type),
        metadata_type=_type(method, read, "operation_info.metadata_type", info.metadata_type)
        if info.metadata_type
        else "",
        retry=_retry(read, mesh.retry_policy),
        timeout=_timeout(read, mesh),
        ack_wait=read.seconds(mesh, "ack_wait", 30.0, least=1.0),
        max_concurrency=read.integer(mesh, "max_concurrency", 1, MAX_CONCURRENCY),
        result_ttl=read.seconds(mesh, "result_ttl", DAY, least=1.0),
        schedule=mesh.schedule,
        request_id_field=request_id.number if request_id is not None and is_id else 0,
    )


def _subscription(method: MethodDescriptor, read: Reader, mesh: Any) -> SubscriptionOptions:
    subscribe = mesh.subscribe
    if method.server_streaming:
        raise read.error("subscribe", "nobody reads what it answers: remove 'stream' from what it returns")
    if method.output_type.full_name != _EMPTY:
        raise read.error(
            "subscribe", f"nobody reads what it answers: return {_EMPTY}, not {method.output_type.full_name}"
        )
    for option in ("schedule", "result_ttl"):
        if mesh.HasField(option) if option == "result_ttl" else mesh.schedule:
            raise read.error(option, "is for jobs, and this method handles events: leave it out")
    batched = method.client_streaming
    if not batched and (subscribe.max_batch_size or subscribe.HasField("max_batch_wait")):
        option = "subscribe.max_batch_size" if subscribe.max_batch_size else "subscribe.max_batch_wait"
        event = method.input_type.name
        raise read.error(option, f"is for batches: take a stream of events, ({event}) becomes (stream {event})")
    event_options = event_of(method.input_type)
    if subscribe.ordered and batched:
        raise read.error("subscribe.ordered", "is not for batches: take one event at a time, or leave it out")
    if subscribe.ordered and not event_options.key:
        message = method.input_type.full_name
        raise read.error(
            "subscribe.ordered", f"{message} has no key: give it option (mesh.v1.event).key, or leave this out"
        )
    if subscribe.start not in options_pb2.Subscription.Start.values():
        raise read.error("subscribe.start", f"{subscribe.start} is not known: START_EARLIEST or START_LATEST")
    return SubscriptionOptions(
        service=method.containing_service.full_name,
        method=method.name,
        event=method.input_type.full_name,
        batched=batched,
        max_batch_size=read.integer(subscribe, "subscribe.max_batch_size", 1000 if batched else 1, MAX_BATCH),
        max_batch_wait=read.seconds(subscribe, "subscribe.max_batch_wait", 1.0 if batched else 0.0),
        ordered=subscribe.ordered,
        start=Start.LATEST if subscribe.start == options_pb2.Subscription.START_LATEST else Start.EARLIEST,
        retry=_retry(read, mesh.retry_policy),
        timeout=_timeout(read, mesh),
        ack_wait=read.seconds(mesh, "ack_wait", 30.0, least=1.0),
        max_concurrency=read.integer(mesh, "max_concurrency", 1, MAX_CONCURRENCY),
        event_options=event_options,
    )


def _retry(read: Reader, policy: Any) -> RetryOptions:
    default = RetryOptions()
    first = read.seconds(policy, "retry_policy.initial_backoff", default.initial_backoff)
    longest = read.seconds(policy, "retry_policy.max_backoff", default.max_backoff)
    if first > longest:
        raise read.error(
            "retry_policy",
            f"initial_backoff, {first:g} s, is longer than max_backoff, {longest:g} s: set both, the first one shorter",
        )
    codes = set()
    for number in policy.retryable_status_codes:
        code = _CODES.get(number)
        if code is None or code is grpc.StatusCode.OK:
            problem = "is not a failure" if number == 0 else "is not a status code"
            raise read.error(
                "retry_policy.retryable_status_codes", f"{number} {problem}: name codes of google.rpc.Code"
            )
        codes.add(code)
    multiplier = policy.backoff_multiplier
    jitter = read.number(policy.jitter, "retry_policy.jitter", 0, 1)
    return RetryOptions(
        max_attempts=read.integer(policy, "retry_policy.max_attempts", default.max_attempts, MAX_ATTEMPTS),
        initial_backoff=first,
        max_backoff=longest,
        backoff_multiplier=read.number(multiplier, "retry_policy.backoff_multiplier", 1)
        if multiplier
        else default.backoff_multiplier,
        jitter=jitter if policy.HasField("jitter") else default.jitter,
        retryable_codes=frozenset(codes) or default.retryable_codes,
    )


def _timeout(read: Reader, mesh: Any) -> float | None:
    return read.seconds(mesh, "timeout", 0.0) or None


def _type(method: MethodDescriptor, read: Reader, option: str, name: str) -> str:
    """Return the full name of a type that is named as AIP-151 says: in the method's package, or with its own."""
    file = method.containing_service.file
    names = [name.removeprefix(".")]
    if file.package and not name.startswith("."):
        names.insert(0, f"{file.package}.{name}")
    seen = seen_by(file)
    for full_name in names:
        try:
            found = file.pool.FindMessageTypeByName(full_name)
        except KeyError:
            continue
        if found.file.name in seen:  # What is merely loaded here is not in the schema that others get.
            return full_name
    raise read.error(option, f"{name!r} is not found: write its full name, and import its file in {file.name}")


def _key_field(message: Descriptor, read: Reader, key: str) -> int:
    field = message.fields_by_name.get(key)
    if field is None:
        names = ", ".join(message.fields_by_name) or "none"
        raise read.error("key", f"{key!r} is not a field of {message.full_name}: there are {names}")
    if field.is_repeated or field.cpp_type not in _KEY_TYPES:
        raise read.error("key", f"{key!r} must be a single string, bytes, bool, enum or integer")
    return field.number
