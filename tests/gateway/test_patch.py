"""PATCH without a field mask: the mask is what the JSON body has. Each row names the rule that it is taken from."""

from collections.abc import Callable
from typing import Any

import pytest

from gateway.config import Config
from gateway.patch_mask import MAX_PATHS
from tests.gateway.conftest import CannedGateway
from tests.gateway.contracts import compile_proto

SCHEMA = compile_proto(
    """
    syntax = "proto3";
    package patch.v1;
    import "google/api/annotations.proto";
    import "google/protobuf/field_mask.proto";
    import "google/protobuf/struct.proto";
    import "google/protobuf/timestamp.proto";
    import "google/protobuf/wrappers.proto";

    message Thing {
      string name = 1;
      string display_name = 2;
      Thing inner = 3;
      repeated Thing parts = 4;
      map<string, Thing> by_key = 5;
      google.protobuf.Timestamp time = 6;
      google.protobuf.Struct data = 7;
      google.protobuf.StringValue note = 8;
      oneof choice { string left = 9; Thing right = 10; }
    }
    message Update { Thing thing = 1; google.protobuf.FieldMask update_mask = 2; }
    message Other { Thing thing = 1; string update_mask = 2; google.protobuf.FieldMask mask = 3; }

    service Things {
      rpc Patch(Update) returns (Thing) {
        option (google.api.http) = {
          patch: "/v1/{thing.name=things/*}" body: "thing"
          additional_bindings { put: "/v1/{thing.name=things/*}" body: "thing" }
          additional_bindings { patch: "/v1/whole" body: "*" }
          additional_bindings { patch: "/v1/mask" body: "update_mask" }
        };
      }
      rpc Odd(Other) returns (Thing) { option (google.api.http) = {patch: "/v1/odd" body: "thing"}; }
    }
    """,
    "patch.proto",
)

T = "/v1/things/1"
TIME = "2026-01-02T03:04:05Z"

# Each row: method, target, JSON body, the mask that the service gets, source.
MASKS: list[tuple[str, str, Any, str | None, str]] = [
    ("PATCH", T, {"displayName": "x"}, "displayName", "grpc-gateway: top-level field, by its name in JSON"),
    ("PATCH", T, {"display_name": "x"}, "displayName", "grpc-gateway: or in the .proto"),
    ("PATCH", T, {"inner": {"displayName": "x"}}, "inner.displayName", "grpc-gateway: nested fields"),
    (
        "PATCH",
        T,
        {"note": "n", "inner": {"inner": {"left": "x"}, "note": "m"}},
        "inner.inner.left,inner.note,note",
        "grpc-gateway: sorted",
    ),
    ("PATCH", T, {"inner": {}}, "inner", "grpc-gateway: an empty object is a leaf"),
    ("PATCH", T, {"displayName": None}, "displayName", "grpc-gateway: null is a leaf, the field is to be cleared"),
    ("PATCH", T, {"displayName": ""}, "displayName", "AIP-134: a default value that is there is to be set"),
    ("PATCH", T, {"parts": [{"displayName": "x"}]}, "parts", "field_mask.proto: a repeated field ends a path"),
    ("PATCH", T, {"byKey": {"a": {"displayName": "x"}}}, "byKey", "field_mask.proto: so does a map"),
    ("PATCH", T, {"time": TIME}, "time", "a well-known type is one value"),
    (
        "PATCH",
        T,
        {"data": {"a": {"b": 1}}},
        "data",
        "here unlike grpc-gateway: so is a Struct, whose keys are no fields",
    ),
    ("PATCH", T, {"right": {"left": "x"}}, "right.left", "oneof"),
    ("PATCH", T, {"name": "things/9", "note": "n"}, "note", "here unlike grpc-gateway: the path has said the name"),
    ("PATCH", T, {"inner": {"name": "x"}}, "inner.name", "but only that name"),
    ("PATCH", T, {}, None, "AIP-134: nothing is there, nothing is said"),
    ("PATCH", T, None, None, "no body"),
    ("PATCH", f"{T}?updateMask=note", {"displayName": "x"}, "note", "AIP-134: a mask that is given counts"),
    ("PATCH", f"{T}?update_mask=note,time", {"left": "x"}, "note,time", "the same, by its other name"),
    ("PATCH", f"{T}?updateMask=", {"left": "x"}, "left", "grpc-gateway: an empty mask is none"),
    ("PUT", T, {"displayName": "x"}, None, "AIP-134: PATCH only"),
    ("PATCH", "/v1/whole", {"thing": {"note": "n"}}, None, "grpc-gateway: not with body '*', the mask may stand there"),
    ("PATCH", "/v1/mask", "note", "note", "the body is the mask"),
    ("PATCH", "/v1/odd", {"note": "n"}, None, "a field of that name that is no FieldMask"),
]


@pytest.fixture
def start() -> Callable[..., CannedGateway]:
    return lambda **options: CannedGateway(SCHEMA, "patch.v1.Things", Config(**options))


@pytest.mark.parametrize(("method", "target", "body", "mask", "source"), MASKS)
async def test_masks(
    start: Callable[..., CannedGateway], method: str, target: str, body: Any, mask: str | None, source: str
) -> None:
    canned = start()
    answer = await canned.client.request(method, target, json=body)
    assert answer.status == 200, answer
    assert canned.request().get("updateMask") == (mask or None), source


async def test_what_the_body_has_else_is_there(start: Callable[..., CannedGateway]) -> None:
    canned = start()
    await canned.client.request("PATCH", T, json={"name": "x", "inner": {"displayName": "y"}})
    assert canned.request() == {
        "thing": {"name": "things/1", "inner": {"displayName": "y"}},
        "updateMask": "inner.displayName",
    }


async def test_unknown_fields(start: Callable[..., CannedGateway]) -> None:
    assert (await start().client.request("PATCH", T, json={"nope": 1, "note": "n"})).status == 400
    canned = start(ignore_unknown=True)
    await canned.client.request("PATCH", T, json={"nope": {"note": 1}, "note": "n"})
    assert canned.request()["updateMask"] == "note"
    answer = await canned.client.request("PATCH", T, b'{"nope": ' + b"9" * 5000 + b"}")
    assert answer.status in (200, 400)


async def test_a_mask_does_not_grow_without_bound(start: Callable[..., CannedGateway]) -> None:
    canned = start()
    leaf: dict[str, Any] = {"note": "n", "displayName": "d", "time": TIME}
    tree = leaf
    for _ in range(10):
        tree = {"inner": tree, "right": tree}
    answer = await canned.client.request("PATCH", T, json=tree)
    assert answer.status == 400
    assert str(MAX_PATHS) in answer.json["message"]
    assert "update_mask" in answer.json["message"]
    assert (await canned.client.request("PATCH", f"{T}?updateMask=*", json=tree)).status in (200, 400)
