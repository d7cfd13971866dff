"""Counts per page and minute."""

import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from services.click_counts import ClickCounts, Hit

MINUTE = 1_800_000_000


class Event(NamedTuple):
    sequence: int
    published: float = MINUTE


@pytest.fixture
def counts() -> Iterator[ClickCounts]:
    counts = ClickCounts()
    yield counts
    counts.close()


def add(counts: ClickCounts, first: int, *hits: tuple[float, str] | None) -> int:
    events = [Event(first + place) for place in range(len(hits))]
    return counts.add(events, [None if hit is None else Hit(MINUTE + hit[0], hit[1]) for hit in hits])


def test_clicks_count_in_their_minute(counts: ClickCounts) -> None:
    assert add(counts, 1, (0, "/a"), (59.999, "/a"), (60, "/a"), (30, "/b")) == 4
    found, total = counts.find("", MINUTE, MINUTE + 120, limit=10)
    assert found == [(MINUTE, "/a", 2), (MINUTE, "/b", 1), (MINUTE + 60, "/a", 1)]
    assert total == 4


def test_late_ones_are_added_and_those_of_before_do_not_count_again(counts: ClickCounts) -> None:
    add(counts, 1, (0, "/a"), (60, "/a"))
    assert add(counts, 2, (60, "/a"), (1, "/a")) == 1
    assert counts.find("/a", MINUTE, MINUTE + 120, limit=10)[0] == [(MINUTE, "/a", 2), (MINUTE + 60, "/a", 1)]


def test_what_is_no_click_counts_as_nothing(counts: ClickCounts) -> None:
    assert add(counts, 1, None, None) == 2
    assert add(counts, 1, (0, "/a"), (0, "/a")) == 0, "the events were seen"
    assert counts.find("", 0, MINUTE + 60, limit=10) == ([], 0)


def test_pages_of_counts_follow_each_other(counts: ClickCounts) -> None:
    add(counts, 1, *[(60 * (n % 3), f"/{n}") for n in range(20)])
    whole, total = counts.find("", MINUTE, MINUTE + 180, limit=100)
    assert (len(whole), total) == (20, 20)
    parts, after = [], None
    while part := counts.find("", MINUTE, MINUTE + 180, limit=3, after=after)[0]:
        parts += part
        after = part[-1].minute, part[-1].page
    assert parts == whole


def test_old_counts_are_forgotten(counts: ClickCounts) -> None:
    now = time.time()
    counts.add([Event(1), Event(2)], [Hit(now - 401 * 86400, "/old"), Hit(now - 399 * 86400, "/new")])
    assert [count.page for count in counts.find("", 0, int(now), limit=10)[0]] == ["/new"]
