"""What a .proto says of jobs and events: the defaults, what is written, and whose descriptors it is read from."""

import subprocess
import sys

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool

from rpc import MethodInfo
from rpc.durable.options import (
    DEFAULT_RETRYABLE,
    EventOptions,
    JobOptions,
    OptionsError,
    RetryOptions,
    Start,
    SubscriptionOptions,
    event_of,
    job_of,
    subscription_of,
)
from tests.durable.contracts import HEAD, compile_protos, pool_of

SHOP = """
package shop.v1;
message BakeRequest { string request_id = 3; }
message PaintRequest { repeated string request_id = 1; }
message Cake { message Layer {} }
message Progress {}
message Sold {
  option (mesh.v1.event) = { key: "shop" partitions: 4 max_age: { seconds: 60 } max_bytes: 1000 };
  string id = 1;
  int64 shop = 7;
}
message Opened { option (mesh.v1.event).key = "shop"; bytes shop = 2; }
message Closed {}
service Shop {
  rpc Plain(BakeRequest) returns (Cake) { option idempotency_level = IDEMPOTENT; }
  rpc Bake(shop.v1.BakeRequest) returns (google.longrunning.Operation) {
    option (google.longrunning.operation_info) = { response_type: "Cake" metadata_type: "shop.v1.Progress" };
  }
  rpc Paint(PaintRequest) returns (google.longrunning.Operation) {
    option (google.longrunning.operation_info) = { response_type: "google.protobuf.Empty" };
    option (mesh.v1.method) = {
      retry_policy: {
        max_attempts: 3
        initial_backoff: { nanos: 500000000 }
        max_backoff: { seconds: 5 }
        backoff_multiplier: 1.3
        jitter: 0
        retryable_status_codes: [UNAVAILABLE, NOT_FOUND]
      }
      timeout: { seconds: 7 }
      ack_wait: { seconds: 1 }
      max_concurrency: 8
      result_ttl: { seconds: 3600 }
      schedule: "@every 5m"
    };
  }
  rpc Cut(BakeRequest) returns (google.longrunning.Operation) {
    option (google.longrunning.operation_info).response_type = "Cake.Layer";
  }
  rpc OnSold(Sold) returns (google.protobuf.Empty) { option (mesh.v1.method).subscribe = { ordered: true }; }
  rpc StoreSold(stream Sold) returns (google.protobuf.Empty) {
    option (mesh.v1.method) = {
      subscribe: { max_batch_size: 50 max_batch_wait: { nanos: 5000000 } start: START_LATEST }
      retry_policy: { jitter: 0.3 }
      max_concurrency: 2
    };
  }
  rpc StoreClosed(stream Closed) returns (google.protobuf.Empty) { option (mesh.v1.method).subscribe = {}; }
}
"""


@pytest.fixture(scope="module")
def pool() -> DescriptorPool:
    return pool_of(compile_protos({"shop.proto": SHOP}))


def method(pool: DescriptorPool, name: str) -> MethodDescriptor:
    found: MethodDescriptor = pool.FindServiceByName("shop.v1.Shop").methods_by_name[name]
    return found


def test_a_plain_method_has_neither(pool: DescriptorPool) -> None:
    plain = method(pool, "Plain")
    assert job_of(plain) is None
    assert subscription_of(plain) is None


def test_a_job_has_defaults(pool: DescriptorPool) -> None:
    assert job_of(method(pool, "Bake")) == JobOptions(
        service="shop.v1.Shop",
        method="Bake",
        response_type="shop.v1.Cake",
        metadata_type="shop.v1.Progress",
        retry=RetryOptions(10, 1.0, 600.0, 2.0, 0.2, DEFAULT_RETRYABLE),
        timeout=None,
        ack_wait=30.0,
        max_concurrency=1,
        result_ttl=86400.0,
        schedule="",
        request_id_field=3,
    )
    assert subscription_of(method(pool, "Bake")) is None


def test_a_job_is_what_is_written(pool: DescriptorPool) -> None:
    codes = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND})
    assert job_of(method(pool, "Paint")) == JobOptions(
        service="shop.v1.Shop",
        method="Paint",
        response_type="google.protobuf.Empty",
        metadata_type="",
        retry=RetryOptions(3, 0.5, 5.0, 1.3, 0.0, codes),
        timeout=7.0,
        ack_wait=1.0,
        max_concurrency=8,
        result_ttl=3600.0,
        schedule="@every 5m",
        request_id_field=0,
    )


def test_a_response_may_be_a_message_in_a_message(pool: DescriptorPool) -> None:
    job = job_of(method(pool, "Cut"))
    assert job is not None
    assert job.response_type == "shop.v1.Cake.Layer"


def test_a_subscription_has_defaults(pool: DescriptorPool) -> None:
    assert subscription_of(method(pool, "OnSold")) == SubscriptionOptions(
        service="shop.v1.Shop",
        method="OnSold",
        event="shop.v1.Sold",
        batched=False,
        max_batch_size=1,
        max_batch_wait=0.0,
        ordered=True,
        start=Start.EARLIEST,
        retry=RetryOptions(),
        timeout=None,
        ack_wait=30.0,
        max_concurrency=1,
        event_options=EventOptions("shop.v1.Sold", "shop", 7, 4, 60.0, 1000),
    )
    assert job_of(method(pool, "OnSold")) is None


def test_a_subscription_is_what_is_written(pool: DescriptorPool) -> None:
    batches = subscription_of(method(pool, "StoreSold"))
    assert batches is not None
    assert (batches.batched, batches.max_batch_size, batches.max_batch_wait) == (True, 50, 0.005)
    assert (batches.start, batches.retry.jitter, batches.max_concurrency) == (Start.LATEST, 0.3, 2)
    unsaid = subscription_of(method(pool, "StoreClosed"))
    assert unsaid is not None
    assert (unsaid.batched, unsaid.max_batch_size, unsaid.max_batch_wait) == (True, 1000, 1.0)
    assert unsaid.event_options == EventOptions("shop.v1.Closed", "", 0, 1, 7 * 86400.0, None)


def test_every_message_may_be_an_event(pool: DescriptorPool) -> None:
    assert event_of(pool.FindMessageTypeByName("shop.v1.Opened")).partitions == 16
    assert event_of(pool.FindMessageTypeByName("shop.v1.Cake")).message == "shop.v1.Cake"


def test_methods_are_known_by_their_options(pool: DescriptorPool) -> None:
    plain = MethodInfo.from_descriptor(method(pool, "Plain"))
    assert (plain.job, plain.subscription) == (None, None)
    bake = MethodInfo.from_descriptor(method(pool, "Bake"))
    assert bake.job == job_of(method(pool, "Bake"))
    assert bake == MethodInfo("shop.v1.Shop", "Bake"), "its identity is not what is said of it"
    assert hash(bake) == hash(MethodInfo("shop.v1.Shop", "Bake"))
    assert MethodInfo.from_descriptor(method(pool, "StoreSold")).subscription is not None


def test_the_standard_service_has_no_jobs() -> None:
    from google.longrunning import operations_pb2

    for standard in operations_pb2.DESCRIPTOR.services_by_name["Operations"].methods:
        assert MethodInfo.from_descriptor(standard).job is None


def test_options_read_before_they_were_known_are_understood() -> None:
    """Protobuf remembers a descriptor's options as it understood them first, here: as unknown fields."""
    files = compile_protos({"shop.proto": SHOP}).SerializeToString()
    program = f"""
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
pool = DescriptorPool()
for file in FileDescriptorSet.FromString({files!r}).file:
    pool.Add(file)
methods = pool.FindServiceByName("shop.v1.Shop").methods_by_name
[method.GetOptions() for method in methods.values()]
import sys
from rpc import MethodInfo
assert MethodInfo.from_descriptor(methods["Plain"]).job is None
assert "mesh.v1.options_pb2" not in sys.modules, "plain methods load nothing"
print(MethodInfo.from_descriptor(methods["Paint"]).job.schedule)
"""
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert result.stdout == "@every 5m\n", result.stderr


def test_another_extension_of_that_number_is_none_of_ours() -> None:
    text = """
    package other.v1;
    import "google/protobuf/descriptor.proto";
    extend google.protobuf.MethodOptions { Theirs theirs = 51932; }
    message Theirs { string schedule = 6; int32 subscribe = 8; }
    service Other { rpc Do(Theirs) returns (Theirs) { option (theirs) = { schedule: "never" subscribe: 1 }; } }
    """
    head = HEAD.replace('import "mesh/v1/options.proto";', "")
    files = compile_protos({"other.proto": text}, head)
    do = pool_of(files).FindServiceByName("other.v1.Other").methods_by_name["Do"]
    assert job_of(do) is None
    assert subscription_of(do) is None


def test_options_of_a_newer_version_are_refused() -> None:
    """A field that this version does not know cannot be passed over: somebody counts on it."""
    files = compile_protos({"shop.proto": SHOP})
    shop = next(file for file in files.file if file.name == "shop.proto")
    options = next(method.options for method in shop.service[0].method if method.name == "Paint")
    max_attempts, newer = b"\x08\x03", b"\x78\x03"  # field 1 and field 15
    data = options.SerializeToString()
    assert data.count(max_attempts) == 1
    options.ParseFromString(data.replace(max_attempts, newer))
    with pytest.raises(OptionsError, match=r"shop\.v1\.Shop/Paint: retry_policy: field 15 is not known .* update"):
        job_of(method(pool_of(files), "Paint"))
