"""The comments of the ``.proto`` for the schemas that back-ends announce.

protoc leaves comments out of the code that it generates for Python. The same run of protoc writes them into a
descriptor set, if it is asked to (``--include_source_info --descriptor_set_out=gen/descriptors.binpb``). A set of that
name in the folder that ``--python_out`` names is found here. It can add comments to what a service announces, and
nothing else: where it says something else than the code that is loaded, it is out of date and passed over.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet
from google.protobuf.message import DecodeError

logger = logging.getLogger(__name__)

FILE_NAME = "descriptors.binpb"
"""The descriptor set's name; its place is the folder that generated code is imported from."""

MAX_FILE_BYTES = 64 * 1024 * 1024
"""A larger descriptor set is not read."""

MAX_COMMENT_BYTES = 256 * 1024
"""What the comments of one service's files may take together: its schema has to fit into one message on the bus."""

# Field numbers in FileDescriptorProto: messages, enums, services, extensions.
_DECLARATIONS = frozenset({4, 5, 6, 7})


def add_comments(files: Iterable[FileDescriptor], file_set: FileDescriptorSet) -> None:
    """Add to the files of a set, which describe ``files`` in the same order, the comments that can be found."""
    left = MAX_COMMENT_BYTES
    for descriptor, file in zip(files, file_set.file, strict=True):
        commented = _commented(descriptor)
        if commented is None:
            continue
        for location in commented.source_code_info.location:
            # The places of all the rest (that is most of it) are of use to compilers only; what stands at the head of
            # a file is about the file.
            if not (location.leading_comments or location.trailing_comments) or location.path[0] not in _DECLARATIONS:
                continue
            del location.leading_detached_comments[:]
            left -= location.ByteSize()
            if left < 0:
                logger.info("the comments of %s are left out: they take too much room", file.name)
                file.ClearField("source_code_info")
                return
            file.source_code_info.location.append(location)


def _commented(descriptor: FileDescriptor) -> FileDescriptorProto | None:
    """Return a file as the descriptor set beside its generated code has it, if that describes the same."""
    name = descriptor.name
    # As protoc names modules: a "-" cannot stand in one.
    stem = name.removesuffix(".proto").replace("-", "_")
    module = sys.modules.get(stem.replace("/", ".") + "_pb2")
    path = getattr(module, "__file__", None)
    if path is None or getattr(module, "DESCRIPTOR", None) is not descriptor:
        return None
    source = Path(path).parents[stem.count("/")] / FILE_NAME
    try:
        status = source.stat()
    except OSError:
        return None
    files = _read(source, status.st_mtime_ns, status.st_size)
    if name not in files:
        return None
    file = FileDescriptorProto.FromString(files[name])
    if not _same(file, FileDescriptorProto.FromString(descriptor.serialized_pb)):
        logger.warning("%s describes another %s than the code that is loaded: no comments are announced", source, name)
        return None
    return file


@lru_cache(maxsize=8)
def _read(source: Path, _modified: int, size: int) -> dict[str, bytes]:
    """Return the files of a descriptor set by name, serialized."""
    try:
        if size > MAX_FILE_BYTES:
            raise ValueError(f"it has {size} bytes, at most {MAX_FILE_BYTES} are read")
        return {file.name: file.SerializeToString() for file in FileDescriptorSet.FromString(source.read_bytes()).file}
    except (OSError, ValueError, DecodeError) as error:
        logger.warning("no comments are announced: %s cannot be used: %s", source, error)
        return {}


def _same(commented: FileDescriptorProto, loaded: FileDescriptorProto) -> bool:
    """Compare what two descriptors of a file declare. JSON names that follow from the names are in one only."""
    plain = FileDescriptorProto()
    plain.CopyFrom(commented)
    plain.ClearField("source_code_info")
    for file in (plain, loaded):
        for field in _fields(file):
            field.ClearField("json_name")
    return plain == loaded


def _fields(file: FileDescriptorProto) -> Iterator[FieldDescriptorProto]:
    yield from file.extension
    messages: list[DescriptorProto] = list(file.message_type)
    while messages:
        message = messages.pop()
        yield from message.field
        yield from message.extension
        messages.extend(message.nested_type)
