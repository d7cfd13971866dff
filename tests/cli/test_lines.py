"""Output of many processes, line by line, within bounds."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natsmesh.lines import MAX_LINE_BYTES, LineSplitter, Terminal


def split(*parts: bytes) -> list[str]:
    lines: list[str] = []
    splitter = LineSplitter(lines.append)
    for part in parts:
        splitter.feed(part)
    splitter.close()
    return lines


def test_lines_come_whole_however_they_arrive() -> None:
    assert split(b"on", b"e\ntw", b"o\r\n", b"three") == ["one", "two", "three"]


@given(st.lists(st.binary(max_size=50)))
def test_where_the_output_is_cut_makes_no_difference(parts: list[bytes]) -> None:
    assert split(*parts) == split(b"".join(parts))


def test_a_line_without_end_is_cut_and_not_collected() -> None:
    lines = split(*[b"x" * 10_000] * 100)
    assert "".join(lines) == "x" * 1_000_000
    assert max(map(len, lines)) == MAX_LINE_BYTES


def test_bytes_that_are_no_text_are_shown_all_the_same() -> None:
    assert split(b"\xff\xfe\n") == ["\ufffd\ufffd"]


def test_each_name_keeps_its_colour_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal(Screen())
    assert terminal.colour
    terminal.line("a", "one")
    terminal.line("b", "two")
    terminal.line("a", "three")
    first, second, third = terminal.stream.getvalue().splitlines()
    colours = [line.partition("m")[0] for line in (first, second, third)]
    assert colours[0] == colours[2] != colours[1]
    monkeypatch.setenv("NO_COLOR", "1")
    assert not Terminal(Screen()).colour


def test_without_a_terminal_lines_are_plain_and_aligned() -> None:
    terminal = Terminal(io.StringIO())
    terminal.receiver("a-rather-long-name")("one")
    terminal.line("b", "two")
    assert terminal.stream.getvalue() == "a-rather-long-name | one\nb                  | two\n"


def test_a_reader_that_is_gone_stops_nobody() -> None:
    gone = Terminal(io.StringIO())
    gone.stream.close()
    gone.line("a", "two")
