"""Example requests are valid JSON forms of their messages, and curl commands say what the routes say."""

import shlex
from types import ModuleType

import pytest
from google.protobuf import (
    api_pb2,
    descriptor_pb2,
    descriptor_pool,
    json_format,
    message_factory,
    struct_pb2,
    type_pb2,
    wrappers_pb2,
)
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from google.rpc import error_details_pb2

from greeter.v1 import greeter_pb2
from mailer.v1 import mailer_pb2
from natsmesh.examples import curl, example
from natsmesh.schema import Schema
from thumbnail.v1 import thumbnail_pb2

PROTO = """
syntax: "proto3" name: "e.proto" package: "e"
dependency: "google/api/annotations.proto"
message_type {
  name: "Request"
  field { name: "shelf" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL json_name: "shelf" }
  field { name: "the_book" number: 2 type: TYPE_MESSAGE type_name: ".e.Request.Book" label: LABEL_OPTIONAL json_name: "theBook" }
  field { name: "tags" number: 3 type: TYPE_STRING label: LABEL_REPEATED json_name: "tags" }
  field { name: "count" number: 4 type: TYPE_INT64 label: LABEL_OPTIONAL json_name: "count" }
  nested_type {
    name: "Book"
    field { name: "id" number: 1 type: TYPE_INT32 label: LABEL_OPTIONAL json_name: "id" }
    field { name: "within" number: 2 type: TYPE_MESSAGE type_name: ".e.Request.Book" label: LABEL_OPTIONAL json_name: "within" }
  }
}
service {
  name: "S"
  method { name: "Get" input_type: ".e.Request" output_type: ".e.Request"
    options { [google.api.http] { get: "/v1/{shelf=shelves/*}/books/{the_book.id}" } } }
  method { name: "Put" input_type: ".e.Request" output_type: ".e.Request"
    options { [google.api.http] { put: "/v1/{shelf}" body: "*" } } }
  method { name: "Post" input_type: ".e.Request" output_type: ".e.Request"
    options { [google.api.http] { post: "/v1/{shelf}" body: "the_book" } } }
  method { name: "Plain" input_type: ".e.Request" output_type: ".e.Request" }
  method { name: "Stream" input_type: ".e.Request" output_type: ".e.Request" server_streaming: true }
}
"""  # noqa: E501


def file_set(*files: FileDescriptor) -> bytes:
    found: dict[str, FileDescriptor] = {}

    def add(file: FileDescriptor) -> None:
        for dependency in file.dependencies:
            add(dependency)
        found[file.name] = file

    for file in files:
        add(file)
    result = descriptor_pb2.FileDescriptorSet()
    for file in found.values():
        file.CopyToProto(result.file.add())
    return result.SerializeToString()


@pytest.fixture
def schema() -> Schema:
    from google.api import annotations_pb2
    from google.protobuf import text_format

    file = text_format.Parse(PROTO, descriptor_pb2.FileDescriptorProto())
    files = descriptor_pb2.FileDescriptorSet.FromString(file_set(annotations_pb2.DESCRIPTOR))
    files.file.append(file)
    return Schema(files.SerializeToString())


def method(schema: Schema, name: str) -> MethodDescriptor:
    return schema.service("e.S").methods_by_name[name]


@pytest.mark.parametrize(
    "file", [descriptor_pb2, type_pb2, api_pb2, struct_pb2, wrappers_pb2, error_details_pb2, thumbnail_pb2, greeter_pb2]
)
def test_every_example_is_a_message(file: ModuleType) -> None:
    pool = descriptor_pool.Default()
    for message in file.DESCRIPTOR.message_types_by_name.values():
        json_format.ParseDict(example(message), message_factory.GetMessageClass(message)(), descriptor_pool=pool)


def test_a_recursive_message_has_an_end(schema: Schema) -> None:
    request = schema.pool.FindMessageTypeByName("e.Request")
    assert example(request)["theBook"] == {"id": 1, "within": {"id": 1, "within": {"id": 1, "within": {"id": 1}}}}


def test_64_bit_numbers_are_strings_and_lists_have_one_value(schema: Schema) -> None:
    values = example(schema.pool.FindMessageTypeByName("e.Request"))
    assert (values["count"], values["tags"]) == ("1", ["tag"])


def test_a_route_is_filled(schema: Schema) -> None:
    words = shlex.split(curl(schema, method(schema, "Get"), "host:1") or "")
    assert words == ["curl", "host:1/v1/shelves/shelf/books/1?tags=tag&count=1"]


def test_a_body_holds_what_the_path_does_not(schema: Schema) -> None:
    words = shlex.split(curl(schema, method(schema, "Put"), "host:1") or "")
    assert words[:4] == ["curl", "-X", "PUT", "-d"]
    assert '"shelf"' not in words[4]
    assert '"theBook": {"id": 1' in words[4]
    assert words[5:] == ["-H", "content-type: application/json", "host:1/v1/shelf"]


def test_a_field_may_be_the_body(schema: Schema) -> None:
    words = shlex.split(curl(schema, method(schema, "Post"), "host:1") or "")
    assert words[1] == "-d"
    assert words[2].startswith('{"id": 1')
    assert words[-1] == "host:1/v1/shelf?tags=tag&count=1"


def test_without_a_route_it_is_a_connect_call(schema: Schema) -> None:
    assert (curl(schema, method(schema, "Plain"), "host:1") or "").endswith(" host:1/e.S/Plain")
    assert curl(schema, method(schema, "Stream"), "host:1") is None


def test_raw_bodies_are_files() -> None:
    schema = Schema(file_set(thumbnail_pb2.DESCRIPTOR))
    create = schema.service("thumbnail.v1.Thumbnailer").methods_by_name["CreateThumbnail"]
    assert curl(schema, create, "localhost:8080") == (
        "curl --data-binary @photo.jpg -H 'content-type: image/jpeg' 'localhost:8080/v1/thumbnail?width=256' -o out.jpg"
    )


def test_handlers_of_events_are_not_called_over_http() -> None:
    schema = Schema(file_set(mailer_pb2.DESCRIPTOR))
    commands = {each.name: curl(schema, each, "host:1") for each in schema.service("mailer.v1.Mailer").methods}
    assert commands["WelcomeUser"] is None
    assert "request_id" not in (commands["SendWelcomeMail"] or "request_id")  # an example of a UUID stands there


@pytest.mark.parametrize("data", [b"\xff\xff", b""])
def test_a_broken_schema_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="schema"):
        Schema(data).service("e.S")
