"""Descriptors printed as proto text compile again to the same descriptors."""

import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

import grpc_tools
import pytest
from google.protobuf import descriptor_pb2 as pb
from google.protobuf import descriptor_pool

from natsmesh.proto_text import ProtoText, type_names
from natsmesh.protos import includes

ROOT = Path(__file__).parents[2]
INCLUDES = (ROOT / "proto", Path(sysconfig.get_path("purelib")), Path(grpc_tools.__file__).parent / "_proto")

ODDITIES = """
syntax = "proto2";
package odd.v1;
import "google/protobuf/descriptor.proto";
option java_package = "a\\"b\\\\c";
option optimize_for = SPEED;

extend google.protobuf.MethodOptions {
  optional Policy policy = 50001;
  repeated string tags = 50002;
}
extend google.protobuf.FieldOptions { optional double weight = 50003; }

message Policy { optional int32 attempts = 1; repeated Policy inner = 2; }

service Odd {
  option deprecated = true;
  rpc Both(stream Outer) returns (stream .odd.v1.Outer.Inner) {
    option (policy) = { attempts: 3 inner { attempts: 4 } };
    option (tags) = "a";
    option (tags) = "b\\n";
  }
  rpc Plain(Outer) returns (Outer);
}

message Outer {
  option (Outer.about) = "it";
  extend google.protobuf.MessageOptions { optional string about = 50004; }
  message Inner { message odd { optional Outer.Inner v1 = 1; } optional odd shadow = 1; }
  enum Kind {
    option allow_alias = true;
    NONE = 0;
    NADA = 0;
    NEGATIVE = -5 [deprecated = true];
    reserved 7 to 9, 100 to max;
    reserved "OLD";
  }
  required string text = 1 [default = "tab\\t\\"quote\\" ü"];
  optional bytes raw = 2 [default = "\\000\\377x"];
  optional double far = 3 [default = -inf, (weight) = 1.5];
  optional Kind kind = 4 [default = NEGATIVE];
  optional bool flag = 5 [default = true, deprecated = true];
  repeated int64 packed = 6 [packed = true];
  optional string other_name = 7 [json_name = "somethingElse"];
  map<string, Inner> inners = 8;
  map<int32, .odd.v1.Outer.Kind> kinds = 9;
  oneof choice { string left = 10; group Right = 11 { optional int32 deep = 1; } Inner middle = 12; }
  repeated group Many = 13 { optional Kind kind = 1; }
  reserved 20, 30 to 35, 4000 to 4005;
  reserved "gone", "lost";
  extensions 100 to 199;
  extensions 5000 to max;
}
extend Outer { optional Outer.Inner added = 100; repeated group Late = 101 { optional int32 x = 1; } }
"""

EDITION = """
edition = "2023";
package odd.v2;
option features.enum_type = CLOSED;
message M {
  string a = 1 [features.field_presence = LEGACY_REQUIRED];
  M b = 2 [features.message_encoding = DELIMITED];
  repeated int32 c = 3 [features.repeated_field_encoding = EXPANDED];
}
enum E { E_ONE = 1; }
"""


Files = dict[str, pb.FileDescriptorProto]


def compiled(out: Path, folders: Iterable[Path | str], files: Iterable[str], *flags: str) -> Files:
    paths = [f"-I{folder}" for folder in folders]
    command = [sys.executable, "-m", "grpc_tools.protoc", *paths, "--include_imports", *flags, f"-o{out}", *files]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return {file.name: file for file in pb.FileDescriptorSet.FromString(out.read_bytes()).file}


def printed(files: dict[str, pb.FileDescriptorProto]) -> dict[str, str]:
    pool = descriptor_pool.DescriptorPool()
    for file in files.values():
        pool.Add(file)
    names = [name for file in files.values() for name in type_names(file)]
    return {name: ProtoText(file, names, pool).whole() for name, file in files.items()}


def normal(message: pb.DescriptorProto) -> None:
    """Sort what is nested: nested messages are printed before fields, and a map field makes one as well."""
    for nested in message.nested_type:
        normal(nested)
    message.nested_type.sort(key=lambda each: each.name)


def check_round_trip(tmp_path: Path, files: dict[str, pb.FileDescriptorProto]) -> None:
    for name, text in printed(files).items():
        path = tmp_path / "again" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    again = compiled(tmp_path / "again.bin", [tmp_path / "again"], files)
    for name, file in files.items():
        for message in (*file.message_type, *again[name].message_type):
            normal(message)
        assert again[name] == file, (tmp_path / "again" / name).read_text()


def test_every_proto_that_is_installed_survives(tmp_path: Path) -> None:
    names = [str(file.relative_to(folder)) for folder in INCLUDES for file in folder.rglob("*.proto")]
    files = dict.fromkeys(name for name in names if not name.startswith("grpc_tools/"))
    assert len(files) > 50
    # The same as google/longrunning/operations.proto, which our own files import.
    del files["google/longrunning/operations_proto.proto"]
    check_round_trip(tmp_path, compiled(tmp_path / "all.bin", [*INCLUDES, *includes()], files))


@pytest.mark.parametrize("text", [ODDITIES, EDITION], ids=["proto2", "edition"])
def test_the_rare_parts_of_the_language_survive(tmp_path: Path, text: str) -> None:
    (tmp_path / "odd.proto").write_text(text)
    check_round_trip(tmp_path, compiled(tmp_path / "odd.bin", [tmp_path, INCLUDES[-1]], ["odd.proto"]))


def test_comments_and_options_stand_where_they_stood(tmp_path: Path) -> None:
    files = compiled(tmp_path / "g.bin", INCLUDES, ["greeter/v1/greeter.proto"], "--include_source_info")
    assert printed(files)["greeter/v1/greeter.proto"] == (ROOT / "proto/greeter/v1/greeter.proto").read_text()


def test_one_method_and_one_message_can_be_printed_alone(tmp_path: Path) -> None:
    (tmp_path / "odd.proto").write_text(ODDITIES)
    files = compiled(tmp_path / "odd.bin", [tmp_path, INCLUDES[-1]], ["odd.proto"])
    text = ProtoText(files["odd.proto"])
    assert text.service("Odd", "Plain") == (
        "service Odd {\n  option deprecated = true;\n  rpc Plain(Outer) returns (Outer);\n}\n"
    )
    fields = "  optional int32 attempts = 1;\n  repeated Policy inner = 2;\n"
    assert text.type("odd.v1.Policy") == f"message Policy {{\n{fields}}}\n"
    with pytest.raises(KeyError):
        text.type("odd.v1.Nothing")
