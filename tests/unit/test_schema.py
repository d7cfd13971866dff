"""Schemas by content address: the same bytes wherever the same code runs."""

import hashlib
import os
import subprocess
import sys

from google.protobuf import descriptor_pb2

from rpc.discovery.schema import digest_of, find_service, methods_of, schema_of

PROGRAM = """
import sys
for module in sys.argv[1:]:
    __import__(module)
from rpc.discovery.schema import digest_of, find_service, schema_of
print(digest_of(schema_of(find_service("greeter.v1.Greeter"))))
"""


def test_every_process_computes_the_same_digest() -> None:
    digests = set()
    # Other imports before, another order, another seed of hashing: none of it may matter.
    for seed, modules in (
        ("0", ["greeter.v1.greeter_pb2"]),
        ("1", ["google.protobuf.type_pb2", "google.api.annotations_pb2", "greeter.v1.greeter_pb2_grpc"]),
        ("2", ["greeter.v1.greeter_pb2", "google.rpc.status_pb2", "google.api.httpbody_pb2"]),
    ):
        result = subprocess.run(
            [sys.executable, "-c", PROGRAM, *modules],
            env={
                **os.environ,
                "PYTHONHASHSEED": seed,
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            },
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
        digests.add(result.stdout.strip())
    assert len(digests) == 1
    assert len(digests.pop()) == 64


def test_a_schema_is_complete_and_in_order() -> None:
    import greeter.v1.greeter_pb2  # noqa: F401 - registers the service

    service = find_service("greeter.v1.Greeter")
    assert service is not None
    schema = schema_of(service)
    assert digest_of(schema) == hashlib.sha256(schema).hexdigest()
    known: set[str] = set()
    for file in descriptor_pb2.FileDescriptorSet.FromString(schema).file:
        assert set(file.dependency) <= known, f"{file.name} stands before what it imports"
        known.add(file.name)
    assert "greeter/v1/greeter.proto" in known
    assert "google/api/annotations.proto" in known
    assert set(methods_of(service)) == {"SayHello"}


def test_an_unknown_service_has_none() -> None:
    assert find_service("no.such.Service") is None
