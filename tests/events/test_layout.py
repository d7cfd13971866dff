"""Where events of a key go: to the partition that docs/events.md says, so that programs in any language agree."""

import subprocess
import zlib
from typing import Any

import pytest

from tests.events.conftest import World
from tests.events.stage import stage

PARTITIONS = 16  # the default


def crc32(data: bytes) -> int:
    """CRC-32 as of ISO 3309, PNG and gzip, worked out by somebody else: gzip keeps it in its trailer."""
    packed = subprocess.run(["gzip", "-c"], input=data, capture_output=True, check=True).stdout
    return int.from_bytes(packed[-8:-4], "little")


@pytest.mark.parametrize(
    ("message", "key", "text"),
    [
        ("ByText", "Ann", b"Ann"),
        ("ByText", "Zoë ☃", "Zoë ☃".encode()),
        ("ByText", "", b""),
        ("ByBytes", b"\x00\xff", b"\x00\xff"),
        ("ByBool", True, b"true"),
        ("ByBool", False, b"false"),
        ("ByEnum", 2, b"2"),
        ("ByEnum", 77, b"77"),  # of a newer .proto
        ("ByInt32", -5, b"-5"),
        ("BySint64", -(2**63), b"-9223372036854775808"),
        ("ByFixed64", 2**64 - 1, b"18446744073709551615"),
    ],
)
async def test_a_key_of_each_kind_has_its_partition(world: World, message: str, key: Any, text: bytes) -> None:
    publisher = await world.publisher()
    await publisher.publish(getattr(stage.pb, message)(key=key))
    (stored,) = await world.stored(f"stage.v1.{message}")
    partition = crc32(text) % PARTITIONS
    assert stored.subject == f"{world.prefix}.events.stage.v1.{message}.{partition}"
    assert zlib.crc32(text) == crc32(text)


async def test_events_without_a_key_have_one_subject(world: World) -> None:
    publisher = await world.publisher()
    await publisher.publish(stage.placed(1))
    (stored,) = await world.stored()
    assert stored.subject == f"{world.prefix}.events.stage.v1.Placed"
    assert stage.pb.Placed.FromString(stored.data) == stage.placed(1)
