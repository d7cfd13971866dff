"""What options are made of: times and sizes with units, and the error that a wrong one raises.

Every feature's options are a frozen dataclass. Annotated with ``Seconds`` or ``Bytes``, an option may have a unit in
the configuration file and on the command line; a plain ``int`` or ``float`` is a number of things, and has none.
"""

from __future__ import annotations

import enum
import re
from typing import Annotated, Final, TypeAlias

MEBIBYTE: Final = 1024 * 1024


class ConfigError(ValueError):
    """An option with a value that makes no sense; the text says which and what to do.

    It begins with the option's name: by it the line of a configuration file is found.
    """


class Unit(enum.Enum):
    """What a number counts."""

    SECONDS = "seconds"
    BYTES = "bytes"


Seconds: TypeAlias = Annotated[float, Unit.SECONDS]
"""A time; as text ``500ms``, ``30s``, ``1.5m``, ``2h`` or ``1d``."""

Bytes: TypeAlias = Annotated[int, Unit.BYTES]
"""A size; as text ``512 B``, ``100 kB``, ``16 MiB`` or ``1 GiB``: units with an i are powers of 1024."""

NOT_IN_FILE: Final = {"file": False}
"""``field(metadata=...)`` of what a configuration file cannot set."""

_NUMBER_AND_UNIT = re.compile(r"([0-9]+(?:\.[0-9]+)?)[ ]?([A-Za-z]+)")
_SECONDS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES: Final = {
    "B": 1,
    "kB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
}


def parse_seconds(text: str) -> float:
    """Return the seconds that ``500ms``, ``30s`` ... are. Raises ``ValueError``."""
    return _parse(text, _SECONDS, "a time such as 500ms, 30s, 5m, 2h or 1d")


def parse_bytes(text: str) -> int:
    """Return the bytes that ``16 MiB``, ``100 kB`` ... are. Raises ``ValueError``."""
    value = _parse(text, _BYTES, "a size such as 512 B, 100 kB, 16 MiB or 1 GiB")
    if value != int(value):
        raise ValueError(f"{text!r} is no whole number of bytes")
    return int(value)


def _parse(text: str, units: dict[str, float] | dict[str, int], expected: str) -> float:
    match = _NUMBER_AND_UNIT.fullmatch(text.strip())
    if match is None or match[2] not in units:
        raise ValueError(f"{text[:40]!r}: expected {expected}")
    return float(match[1]) * units[match[2]]
