"""Watches queues fill and drain."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from natsmesh.exits import Exit
from natsmesh.jobs.reach import Reach, reach
from natsmesh.jobs.screen import Screen, bar
from natsmesh.jobs.text import duration
from natsmesh.signals import StopSignal
from natsmesh.table import table
from rpc.jobs.numbers import Meter, QueueNumbers, Rates, queue_numbers, queues

if TYPE_CHECKING:
    from natsmesh.options import Mesh

_HEAD = ["JOB", "WAITING", "IN FLIGHT", "SCHEDULED", "DEAD", "OLDEST", "IN/S", "OUT/S", "ETA", ""]
_LOOK_FOR_NEW = 5.0


@dataclass(slots=True)
class _Watched:
    """One queue, and what was seen of it."""

    meter: Meter = field(default_factory=Meter)
    numbers: QueueNumbers | None = None
    rates: Rates | None = None
    settled_before: int = 0

    def add(self, numbers: QueueNumbers) -> None:
        if self.numbers is None:
            self.settled_before = numbers.settled
        self.rates = self.meter.add(time.monotonic(), numbers)
        self.numbers = numbers

    @property
    def part(self) -> float:
        """Which part is done of all that there was to do since the watch began."""
        assert self.numbers is not None  # noqa: S101 - who asks has looked
        done = max(0, self.numbers.settled - self.settled_before)
        return 1.0 if not self.numbers.length else done / (done + self.numbers.length)


async def watch(mesh: Mesh, service: str, method: str, *, interval: float, until_empty: bool, as_json: bool) -> int:
    """Print the numbers of queues until Ctrl-C, or until they are empty."""
    stop = StopSignal()
    screen = Screen()
    watched: dict[tuple[str, str], _Watched] = {}
    async with reach(mesh, "jobs watch") as found:
        looked = 0.0
        while not stop.is_set:
            try:
                if not watched or time.monotonic() - looked > _LOOK_FOR_NEW:
                    names = [(service, method)] if method else await queues(found.js, found.subjects, service)
                    watched.update({name: _Watched() for name in names if name not in watched})
                    looked = time.monotonic()
                await _look(found, watched)
            except ConnectionError as error:
                # It comes back, and so do we.
                print(f"natsmesh: {error}", file=sys.stderr)  # noqa: T201 - what it is for
                await _pause(stop, interval)
                continue
            _show(screen, watched, as_json=as_json)
            if until_empty and not any(each.numbers and each.numbers.length for each in watched.values()):
                return Exit.OK
            await _pause(stop, interval)
    return Exit.OK


async def _pause(stop: StopSignal, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()


async def _look(found: Reach, watched: dict[tuple[str, str], _Watched]) -> None:
    for name, each in watched.items():
        each.add(await queue_numbers(found.js, found.subjects, *name))


def _show(screen: Screen, watched: dict[tuple[str, str], _Watched], *, as_json: bool) -> None:
    known = [each for each in watched.values() if each.numbers is not None]
    if as_json:
        for each in known:
            print(json.dumps(_object(each)), flush=True)  # noqa: T201 - what it is for
    elif not screen.is_terminal:
        screen.show([_line(each) for each in known])
    elif not known:
        screen.show(["there are no jobs yet"])
    else:
        rows = [[*_cells(each), bar(each.part)] for each in known]
        screen.show([*table(_HEAD, rows, right=range(1, 9)).splitlines(), "Ctrl-C ends it"])


def _object(each: _Watched) -> dict[str, Any]:
    numbers, rates = each.numbers, each.rates
    assert numbers is not None  # noqa: S101 - who calls has looked
    eta = None if rates is None else rates.eta(numbers.length)
    return {
        "time": round(time.time(), 3),
        "service": numbers.service,
        "method": numbers.method,
        "waiting": numbers.waiting,
        "in_flight": numbers.in_flight,
        "scheduled": numbers.scheduled,
        "dead": numbers.dead,
        "oldest_age": None if numbers.oldest is None else round(max(0.0, time.time() - numbers.oldest), 3),
        "in_per_second": None if rates is None else round(rates.incoming, 3),
        "out_per_second": None if rates is None else round(rates.outgoing, 3),
        "eta": None if eta is None else round(eta, 1),
        "done": round(each.part, 4),
    }


def _cells(each: _Watched) -> list[str]:
    numbers, rates = each.numbers, each.rates
    assert numbers is not None  # noqa: S101 - who calls has looked
    eta = None if rates is None else rates.eta(numbers.length)
    return [
        f"{numbers.service}/{numbers.method}",
        *(str(number) for number in (numbers.waiting, numbers.in_flight, numbers.scheduled, numbers.dead)),
        "-" if numbers.oldest is None else duration(max(0.0, time.time() - numbers.oldest)),
        "-" if rates is None else f"{rates.incoming:.1f}",
        "-" if rates is None else f"{rates.outgoing:.1f}",
        "-" if eta is None else duration(eta),
    ]


def _line(each: _Watched) -> str:
    name, waiting, in_flight, scheduled, dead, oldest, incoming, outgoing, eta = _cells(each)
    return (
        f"{datetime.now().astimezone():%H:%M:%S} {name} waiting={waiting} in_flight={in_flight} scheduled={scheduled} "
        f"dead={dead} oldest={oldest.replace(' ', '')} in={incoming}/s out={outgoing}/s eta={eta.replace(' ', '')} "
        f"done={each.part:.0%}"
    )
