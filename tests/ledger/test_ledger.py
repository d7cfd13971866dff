"""A small ledger: what ``make ledger`` does with a hundred times as much."""

import socket
from pathlib import Path

import pytest

from tests.ledger.run import run


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.timeout(150)  # so long may it take to find that something is lost
async def test_nothing_that_was_accepted_is_lost_whoever_is_killed(tmp_path: Path) -> None:
    report = await run(1500, 20_000, tmp_path, [free_port(), free_port()], pause=0.8, broker_every=3.0)
    assert report.kills, report
    lost = (report.lost_jobs, report.lost_events, report.unfinished)
    assert lost == (0, 0, 0), f"{report}\n{(tmp_path / 'log').read_text()[-3000:]}"
