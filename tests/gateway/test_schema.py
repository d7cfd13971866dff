"""Schemas that others wrote: garbage and malice end in an error, nothing else."""

import contextlib

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.schema import MAX_METHODS, MAX_SCHEMA_BYTES, SchemaError, load_schema
from rpc import IdempotencyLevel
from tests.gateway.contracts import compile_proto, library

LIBRARY = "library.v1.Library"


def test_a_schema() -> None:
    schema = load_schema(library(), LIBRARY)
    methods = {method.info.name: method for method in schema.methods}
    assert methods["GetBook"].info.path == "/library.v1.Library/GetBook"
    assert methods["GetBook"].info.idempotency is IdempotencyLevel.NO_SIDE_EFFECTS
    assert methods["Watch"].info.server_streaming
    assert methods["GetBook"].request.desc().type_name == "library.v1.GetBookRequest"
    rule = methods["GetBook"].http
    assert rule is not None
    assert rule.get == "/v1/{name=shelves/*/books/*}"


def test_json_names_are_restored() -> None:
    """Python's generated code carries descriptors without them."""
    files = FileDescriptorSet.FromString(library())
    for file in files.file:
        for message in file.message_type:
            for field in message.field:
                field.ClearField("json_name")
    schema = load_schema(files.SerializeToString(), LIBRARY)
    book = schema.registry.message("library.v1.Book")
    assert book is not None
    assert [field.json_name for field in book.fields] == ["name", "title", "authors", "editors", "pageCount", "extra"]


def test_files_may_come_in_any_order() -> None:
    files = FileDescriptorSet.FromString(library())
    for ordered in (sorted(files.file, key=lambda file: file.name), list(reversed(files.file))):
        load_schema(FileDescriptorSet(file=ordered).SerializeToString(), LIBRARY)


def test_a_service_without_package() -> None:
    schema = load_schema(
        compile_proto('syntax = "proto3"; message A {} service Bare { rpc Do(A) returns (A); }'), "Bare"
    )
    assert schema.methods[0].info.path == "/Bare/Do"


def test_proto2_and_editions() -> None:
    load_schema(
        compile_proto('syntax = "proto2"; message A { required int32 x = 1; } service B { rpc Do(A) returns (A); }'),
        "B",
    )
    load_schema(compile_proto('edition = "2023"; message A { int32 x = 1; } service B { rpc Do(A) returns (A); }'), "B")


def edited(**change: object) -> bytes:
    files = FileDescriptorSet.FromString(library())
    edit = change["edit"]
    edit(files)  # type: ignore[operator]
    return files.SerializeToString()


def drop_import(files: FileDescriptorSet) -> None:
    del files.file[0]


def import_itself(files: FileDescriptorSet) -> None:
    files.file[-1].dependency.append(files.file[-1].name)


def unknown_type(files: FileDescriptorSet) -> None:
    files.file[-1].message_type[0].field[0].type = FieldDescriptorProto.TYPE_MESSAGE
    files.file[-1].message_type[0].field[0].type_name = ".nobody.Knows"


def same_number_twice(files: FileDescriptorSet) -> None:
    files.file[-1].message_type[1].field[1].number = 1


def a_method_of_nothing(files: FileDescriptorSet) -> None:
    files.file[-1].service[0].method[0].input_type = ".nobody.Knows"


def too_many_methods(files: FileDescriptorSet) -> None:
    method = files.file[-1].service[0].method[0]
    for number in range(MAX_METHODS):
        files.file[-1].service[0].method.add().CopyFrom(method)
        files.file[-1].service[0].method[-1].name = f"M{number}"


def deep_messages(files: FileDescriptorSet) -> None:
    message = DescriptorProto(name="Deep")
    for _ in range(90):
        outer = DescriptorProto(name="Deep")
        outer.nested_type.add().CopyFrom(message)
        message = outer
    files.file[-1].message_type.add().CopyFrom(message)


def long_chain(files: FileDescriptorSet) -> None:
    previous = files.file[0].name
    for number in range(3000):
        files.file.add(name=f"{number}.proto", dependency=[previous], syntax="proto3")
        previous = f"{number}.proto"
    files.file.add(name="cycle.proto", dependency=[previous, "cycle2.proto"])
    files.file.add(name="cycle2.proto", dependency=["cycle.proto"])


@pytest.mark.parametrize(
    "edit",
    [drop_import, import_itself, unknown_type, same_number_twice, a_method_of_nothing, too_many_methods, long_chain],
)
def test_broken_schemas(edit: object) -> None:
    with pytest.raises(SchemaError):
        load_schema(edited(edit=edit), LIBRARY)


def test_deep_messages_load_or_are_refused() -> None:
    with contextlib.suppress(SchemaError):
        load_schema(edited(edit=deep_messages), LIBRARY)


@pytest.mark.parametrize("data", [b"", b"\xff" * 100, b"\x0a\x05", FileDescriptorProto(name="x").SerializeToString()])
def test_garbage(data: bytes) -> None:
    with pytest.raises(SchemaError):
        load_schema(data, LIBRARY)


def test_too_large() -> None:
    with pytest.raises(SchemaError, match="bytes"):
        load_schema(b"\x00" * (MAX_SCHEMA_BYTES + 1), LIBRARY)


def test_another_service_than_announced() -> None:
    with pytest.raises(SchemaError, match="does not contain the service"):
        load_schema(library(), "other.Service")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_damage_is_noticed_or_harmless(data: st.DataObject) -> None:
    damaged = bytearray(library())
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(SchemaError):
        load_schema(bytes(damaged), LIBRARY)
