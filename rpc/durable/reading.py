"""Reads the extensions of ``mesh/v1/options.proto`` from descriptors of any pool, value by value."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

NUMBER = 51932
"""The number of both extensions: one of those that are free for use inside an organization."""

LONGEST = 100 * 365 * 86400.0
"""Seconds; the broker counts nanoseconds in 64 bits."""


class OptionsError(ValueError):
    """Options of a ``.proto`` that are unknown or contradict each other; the text says whose, which, and what to do."""


class Reader:
    """Reads options of one method or message, and says whose they are when they are wrong."""

    def __init__(self, name: str) -> None:
        """``name`` is ``package.Service/Method``, or a message's full name."""
        self.name = name

    def error(self, option: str, problem: str) -> OptionsError:
        """Return what is to be raised for an option."""
        return OptionsError(f"{self.name}: {option}: {problem}")

    def extension(self, file: FileDescriptor, options: Message, handle: Any) -> Any:
        """Return the message that an extension of mesh.v1 or google.longrunning has, None if it is not there.

        ``options`` are those of a method or message in ``file``. They may have been read before the extension was
        known, so their bytes are read again.
        """
        if not _is_meant(file, handle):
            return None
        try:
            known = type(options).FromString(options.SerializeToString())
        except DecodeError as error:
            problem = "is not readable: is another extension of that number in use?"
            raise self.error(f"({handle.full_name})", problem) from error
        if not known.HasExtension(handle):
            return None
        value = known.Extensions[handle]
        for path, message in _messages(value, ""):
            unknown = UnknownFieldSet(message)
            if len(unknown):
                raise self.error(
                    path or f"({handle.full_name})",
                    f"field {unknown[0].field_number} is not known to this version of natsmesh: update it",
                )
        return value

    def seconds(self, message: Any, option: str, default: float, *, least: float = 0.0) -> float:
        """Return a duration as seconds; ``least`` is the shortest that is allowed, 0: any that is positive."""
        field = option.rpartition(".")[2]
        if not message.HasField(field):
            return default
        duration = getattr(message, field)
        seconds: float = duration.seconds + duration.nanos / 1e9
        if abs(duration.nanos) > 999_999_999 or duration.seconds * duration.nanos < 0:
            raise self.error(option, "is not a valid google.protobuf.Duration")
        if seconds <= 0 or seconds < least or seconds > LONGEST:
            allowed = f"from {least:g} s on" if least else "longer than 0 s"
            raise self.error(option, f"{seconds:g} s is not possible: it must be {allowed}, and shorter than 100 years")
        return seconds

    def integer(self, message: Any, option: str, default: int, most: int) -> int:
        """Return a number from 1 to ``most``; 0 is what was left out."""
        number: int = getattr(message, option.rpartition(".")[2])
        if number == 0:
            return default
        if not 1 <= number <= most:
            raise self.error(option, f"{number} is not possible: it must be from 1 to {most}")
        return number

    def number(self, value: float, option: str, low: float, high: float = math.inf) -> float:
        """Return a number of single precision as it was written, if it is within the bounds."""
        # What is 0.2 in the .proto is 0.200000003 as a float.
        written = float(f"{value:.7g}")
        if not low <= written <= high or math.isinf(written):
            allowed = f"from {low:g} on" if math.isinf(high) else f"from {low:g} to {high:g}"
            raise self.error(option, f"{written:g} is not possible: it must be {allowed}")
        return written


def seen_by(file: FileDescriptor) -> dict[str, FileDescriptor]:
    """Return a file and all that it imports, directly or not, by name."""
    seen = {file.name: file}
    pending = [file]
    while pending:
        for imported in pending.pop().dependencies:
            if imported.name not in seen:
                seen[imported.name] = imported
                pending.append(imported)
    return seen


def _is_meant(file: FileDescriptor, handle: Any) -> bool:
    """Tell whether the extension of that number is the one that a file means: others may use the same number."""
    for each in seen_by(file).values():
        for extension in each.extensions_by_name.values():
            if (
                extension.number == handle.number
                and extension.containing_type is not None
                and extension.containing_type.full_name == handle.containing_type.full_name
                and extension.full_name != handle.full_name
            ):
                return False
    return True


def _messages(message: Message, path: str) -> Iterator[tuple[str, Message]]:
    """Give a message and all messages in it, each with the names of the fields that lead to it."""
    yield path, message
    for field, value in message.ListFields():
        if isinstance(value, Message):
            yield from _messages(value, f"{path}.{field.name}" if path else field.name)
