"""The output of many processes as one: whole lines, each with the name of who said it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TextIO

MAX_LINE_BYTES = 16 * 1024
"""A longer line is cut into pieces of this length: a process without line ends must not fill our memory."""

LineReceiver = Callable[[str], None]

_COLOURS = (36, 33, 35, 32, 34, 96, 93, 95, 92, 94)
_RED, _BOLD = 31, 1


class LineSplitter:
    """Bytes in, lines out. Holds at most ``MAX_LINE_BYTES``."""

    def __init__(self, receive: LineReceiver) -> None:
        self._receive = receive
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take the next piece of output."""
        *lines, rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._emit(line)
        while len(rest) >= MAX_LINE_BYTES:
            self._emit(rest[:MAX_LINE_BYTES])
            rest = rest[MAX_LINE_BYTES:]
        self._rest = rest

    def close(self) -> None:
        """Take the end of the output: what is left is a line."""
        if self._rest:
            self._emit(self._rest)
            self._rest = b""

    def _emit(self, line: bytes) -> None:
        while line:
            self._receive(line[:MAX_LINE_BYTES].decode(errors="replace").rstrip("\r"))
            line = line[MAX_LINE_BYTES:]


class Terminal:
    """Prints lines under coloured names. Colour only where a person sees it (a terminal, no ``NO_COLOR``)."""

    def __init__(self, stream: TextIO | None = None, *, width: int = 10) -> None:
        self.stream = stream or sys.stdout
        self._width = width
        self._colours: dict[str, int] = {}
        self.colour = self.stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def receiver(self, name: str) -> LineReceiver:
        """Return a function that prints lines under a name; each name keeps one colour."""
        self._width = max(self._width, len(name))
        self._colours.setdefault(name, _COLOURS[len(self._colours) % len(_COLOURS)])
        return lambda line: self.line(name, line)

    def line(self, name: str, line: str) -> None:
        """Print one line under a name."""
        colour = self._colours.setdefault(name, _COLOURS[len(self._colours) % len(_COLOURS)])
        self._write(f"{self._paint(f'{name:<{self._width}} |', colour)} {line}\n")

    def error(self, name: str, text: str) -> None:
        """Print what went wrong, all lines of it, so that it is seen."""
        for line in text.splitlines():
            self.line(name, self._paint(line, _RED))

    def plain(self, text: str = "") -> None:
        """Print text as it is."""
        self._write(text + "\n")

    def heading(self, text: str) -> None:
        """Print a line that stands out."""
        self._write(self._paint(text, _BOLD) + "\n")

    def _paint(self, text: str, colour: int) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self.colour else text

    def _write(self, text: str) -> None:
        # The reader may be gone (`| head`): that must not keep us from stopping what we started.
        try:
            self.stream.write(text)
            self.stream.flush()
        except (OSError, ValueError):
            pass
