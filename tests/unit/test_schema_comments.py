"""Comments of the .proto in announced schemas: from the descriptor set beside the generated code, if it fits."""

import importlib
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc

from rpc.discovery import comments
from rpc.discovery.schema import find_service, schema_of

_numbers = count(1)

TEXT = """// Not the service's.

// Bakes bread.
service Baker {{
  // Bakes one loaf.
  rpc Bake(Loaf) returns (Loaf) {{
    option deprecated = true;
  }}
}}
// What is baked.
message Loaf {{
  int32 weight_in_grams = 1; // In grams.
  repeated Loaf slices = 2 [json_name = "Slices"];
  // Crusts.
  enum Crust {{ CRUST_UNSPECIFIED = 0; }}
  Crust crust = 3;
}}
"""


class Compiled:
    """Generated code with its descriptor set, under a name of its own: the pool of a process forgets nothing."""

    def __init__(self, folder: Path, text: str = TEXT) -> None:
        self.folder = folder
        self.package = f"bakery{next(_numbers)}.v1"
        self.name = f"{self.package.replace('.', '/')}/the-bakery.proto"
        self.descriptors = folder / "gen" / comments.FILE_NAME
        self.compile(text, "python")
        importlib.import_module(f"{self.package}.the_bakery_pb2")

    def compile(self, text: str, *kinds: str) -> None:
        source = self.folder / "proto" / self.name
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text(f'syntax = "proto3";\npackage {self.package};\n{text.format()}')
        out = self.folder / "gen"
        out.mkdir(exist_ok=True)
        arguments = [f"-I{self.folder / 'proto'}", *(f"--{kind}_out={out}" for kind in kinds)]
        arguments += ["--include_source_info", f"--descriptor_set_out={self.descriptors}", self.name]
        assert protoc.main(["protoc", *arguments]) == 0

    def announced(self) -> FileDescriptorProto:
        service = find_service(f"{self.package}.Baker")
        assert service is not None
        return FileDescriptorSet.FromString(schema_of(service)).file[-1]

    def comments(self) -> list[str]:
        return [
            (each.leading_comments or each.trailing_comments).strip()
            for each in self.announced().source_code_info.location
        ]


@pytest.fixture
def compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Compiled]]:
    (tmp_path / "gen").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "gen")
    before = set(sys.modules)

    def make(**options: Any) -> Compiled:
        return Compiled(tmp_path, **options)

    yield make
    for name in set(sys.modules) - before:
        if name.startswith("bakery"):
            del sys.modules[name]


def test_comments_are_announced_and_nothing_else_of_the_source(compiled: Callable[..., Compiled]) -> None:
    baker = compiled()
    assert sorted(baker.comments()) == ["Bakes bread.", "Bakes one loaf.", "Crusts.", "In grams.", "What is baked."]
    assert b"Not the service" not in baker.announced().SerializeToString()
    bare = baker.announced()
    bare.ClearField("source_code_info")
    baker.descriptors.unlink()
    assert baker.announced() == bare, "the declarations are those of the code that is loaded"


def test_comments_of_another_version_are_passed_over(
    compiled: Callable[..., Compiled], caplog: pytest.LogCaptureFixture
) -> None:
    baker = compiled()
    baker.compile(TEXT.replace("int32 weight", "int64 weight"))
    assert baker.comments() == []
    assert "describes another" in caplog.text
    baker.compile(TEXT.replace("Bakes bread.", "Bakes all bread."))
    assert "Bakes all bread." in baker.comments()


def test_a_descriptor_set_that_is_garbage_or_too_large_is_passed_over(
    compiled: Callable[..., Compiled], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    baker = compiled()
    whole = baker.descriptors.read_bytes()
    baker.descriptors.write_bytes(b"\xff" * 100)
    assert baker.comments() == []
    assert "cannot be used" in caplog.text
    baker.descriptors.write_bytes(whole)
    monkeypatch.setattr(comments, "MAX_FILE_BYTES", 10)
    comments._read.cache_clear()
    assert baker.comments() == []


def test_comments_are_bounded(compiled: Callable[..., Compiled], monkeypatch: pytest.MonkeyPatch) -> None:
    baker = compiled()
    monkeypatch.setattr(comments, "MAX_COMMENT_BYTES", 60)
    assert baker.comments() == []


def test_what_is_compiled_in_or_written_by_hand_has_none() -> None:
    importlib.import_module("grpc_health.v1.health_pb2")
    service = find_service("grpc.health.v1.Health")
    assert service is not None
    assert not FileDescriptorSet.FromString(schema_of(service)).file[-1].HasField("source_code_info")
