"""Events that come twice, late, or from a stream that was made anew, are written once."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.once import MAX_RANGES, Applied, Database

SCHEMA = "CREATE TABLE IF NOT EXISTS seen (number BIGINT)"


class Event(NamedTuple):
    sequence: int
    published: float = 0.0


@given(st.lists(st.integers(1, 60)))
def test_ranges_say_the_same_as_a_set(numbers: list[int]) -> None:
    applied, seen = Applied(), set[int]()
    for number in numbers:
        assert applied.add(Event(number)) == (number not in seen)
        seen.add(number)
        read = Applied.parse(str(applied), applied.newest)
        assert read.ranges == applied.ranges
    covered = [number for first, last in applied.ranges for number in range(first, last + 1)]
    assert covered == sorted(seen)
    assert all(later[0] > earlier[1] + 1 for earlier, later in zip(applied.ranges, applied.ranges[1:], strict=False))


def test_the_number_of_ranges_is_bounded() -> None:
    applied = Applied()
    for number in range(0, 2 * MAX_RANGES + 20, 2):
        assert applied.add(Event(number))
    assert len(applied.ranges) == MAX_RANGES
    assert applied.ranges[0] == (0, 20)
    assert not applied.add(Event(1))
    assert applied.add(Event(21))


def test_a_stream_that_was_made_anew_counts_from_one_again() -> None:
    applied = Applied()
    for number in range(1, 11):
        applied.add(Event(number, 100.0 + number))
    assert not applied.add(Event(3, 103.0)), "delivered again"
    assert applied.add(Event(1, 200.0)), "another one"
    assert applied.add(Event(2, 200.1))
    assert not applied.add(Event(1, 200.0))
    assert applied.ranges == [(1, 2)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "file.duckdb"


def write(database: Database, *numbers: int, fail: bool = False) -> int:
    def insert(connection: duckdb.DuckDBPyConnection, new: list[int]) -> None:
        connection.execute("INSERT INTO seen SELECT unnest($1)", [[numbers[place] for place in new]])
        if fail:
            raise OSError("no space left on device")

    return database.apply([Event(number) for number in numbers], insert)


def seen(database: Database) -> list[int]:
    with database.read() as connection:
        return [row[0] for row in connection.execute("SELECT number FROM seen ORDER BY number").fetchall()]


def test_a_file_is_continued(path: Path) -> None:
    database = Database(str(path), SCHEMA)
    assert write(database, 1, 2, 2, 5) == 3
    database.close()
    database = Database(str(path), SCHEMA)
    assert write(database, 5, 4, 1, 3) == 2
    assert seen(database) == [1, 2, 3, 4, 5]
    database.close()


def test_what_failed_is_written_by_the_next_attempt(path: Path) -> None:
    database = Database(str(path), SCHEMA)
    write(database, 1)
    with pytest.raises(OSError, match="no space"):
        write(database, 2, 3, fail=True)
    assert seen(database) == [1]
    assert write(database, 2, 3) == 2
    assert seen(database) == [1, 2, 3]
    database.close()


def test_many_threads_write_and_read() -> None:
    database = Database("", SCHEMA)
    threads = [
        threading.Thread(target=lambda first=first: [write(database, *range(n, n + 20)) for n in range(first, 200, 10)])
        for first in range(1, 9)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        rows = seen(database)
        assert len(set(rows)) == len(rows)
    assert seen(database) == list(range(1, 218))
    database.close()


def test_one_process_at_a_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.once.LOCK_SECONDS", 0.3)
    program = (
        "import sys; from services.once import Database; import signal\n"
        f"database = Database(sys.argv[1], {SCHEMA!r}); print('open', flush=True); signal.pause()"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", program, path], env=environment, stdout=subprocess.PIPE) as other:
        assert other.stdout
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(RuntimeError, match="another process has it"):
            Database(str(path), SCHEMA)
        other.send_signal(signal.SIGKILL)
        other.wait()
        Database(str(path), SCHEMA).close()


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    file = tmp_path / "letter.txt"
    file.write_text("Dear reader, this is no database. " * 500)
    with pytest.raises(RuntimeError, match=r"letter\.txt"):
        Database(str(file), SCHEMA)
