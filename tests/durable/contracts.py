"""Contracts of jobs and events for tests: .proto text with the usual imports, loaded into a pool of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_tools import protoc

from natsmesh.protos import includes

HEAD = """
syntax = "proto3";
import "google/longrunning/operations.proto";
import "google/protobuf/empty.proto";
import "mesh/v1/options.proto";
"""


def compile_protos(texts: Mapping[str, str], head: str = HEAD) -> FileDescriptorSet:
    """Compile files in one run of protoc; each text follows the head, and begins with its package."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in texts.items():
            (Path(folder) / name).write_text(head + text)
        target = Path(folder) / "set"
        standard = Path(protoc.__file__).parent / "_proto"
        arguments = [
            "protoc",
            f"-I{folder}",
            *(f"-I{include}" for include in (*includes(), standard)),
            "--include_imports",
            f"--descriptor_set_out={target}",
            *texts,
        ]
        assert protoc.main(arguments) == 0, texts
        return FileDescriptorSet.FromString(target.read_bytes())


def pool_of(files: FileDescriptorSet) -> DescriptorPool:
    pool = DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return pool
