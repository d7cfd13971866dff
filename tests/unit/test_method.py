"""What is known of a method: from its path, and from its descriptor."""

import pytest

from greeter.v1 import greeter_pb2
from rpc import IdempotencyLevel, MethodInfo


def test_from_a_path() -> None:
    info = MethodInfo.from_path("/greeter.v1.Greeter/SayHello")
    assert (info.service, info.name) == ("greeter.v1.Greeter", "SayHello")
    assert info.full_name == "greeter.v1.Greeter/SayHello"
    assert info.path == "/greeter.v1.Greeter/SayHello"
    assert info == MethodInfo.from_path("greeter.v1.Greeter/SayHello")
    assert info.is_unary
    assert info.idempotency is IdempotencyLevel.UNKNOWN


@pytest.mark.parametrize("path", ["", "/", "a", "/a/", "//a", "/a/b/c", "a/", "/SayHello"])
def test_other_paths_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="not a method path"):
        MethodInfo.from_path(path)


def test_from_a_descriptor() -> None:
    method = greeter_pb2.DESCRIPTOR.services_by_name["Greeter"].methods_by_name["SayHello"]
    info = MethodInfo.from_descriptor(method)
    assert info.full_name == "greeter.v1.Greeter/SayHello"
    assert info.idempotency is IdempotencyLevel.NO_SIDE_EFFECTS


@pytest.mark.parametrize(("client", "server"), [(True, False), (False, True), (True, True)])
def test_streams_are_not_unary(client: bool, server: bool) -> None:
    assert not MethodInfo("a.B", "C", client_streaming=client, server_streaming=server).is_unary


def test_methods_can_be_keys() -> None:
    assert {MethodInfo("a.B", "C"): 1}[MethodInfo("a.B", "C")] == 1
