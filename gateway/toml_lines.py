"""On which line of a TOML text a key stands; ``tomllib`` does not tell.

The text has been read by ``tomllib`` before, so it is well-formed and only its outline is looked at: headers, keys, and
where values end. Source: https://toml.io/en/v1.0.0.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from typing import Any, TypeAlias

Path: TypeAlias = tuple[str | int, ...]
"""Keys from the outermost table to a value; the elements of arrays by their numbers."""

_SPACE = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
# The order counts: three quotes before one. A quote may stand in a string of three, up to two before its end.
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"""(?:"{0,2}(?!"))|'
    r"'''.*?'''(?:'{0,2}(?!'))|"
    r'"(?:\\.|[^"\\\n])*"|'
    r"'[^'\n]*'",
    re.DOTALL,
)
_KEY = re.compile(r"(?:[A-Za-z0-9_-]+|\"(?:\\.|[^\"\\\n])*\"|'[^'\n]*'|[ \t]*\.[ \t]*)+")
_SCALAR = re.compile(r"[^,\]}#\n]*")


def lines_of(text: str) -> dict[Path, int]:
    """Return the line (the first is 1) of each table, key and element of an array. ``text`` must be valid TOML."""
    return _Outline(text).lines


class _Outline:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line_starts = [match.end() for match in re.finditer("\n", text)]
        self._sizes: dict[Path, int] = {}
        self.lines: dict[Path, int] = {(): 1}
        table: Path = ()
        while self._skip_space() < len(text):
            if text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)

    def _skip_space(self) -> int:
        self._at = _match(_SPACE, self._text, self._at)
        return self._at

    def _note(self, path: Path) -> None:
        if path not in self.lines:
            self.lines[path] = 1 + bisect_right(self._line_starts, self._at)

    def _key(self) -> tuple[str, ...]:
        """Take a key, and whatever spaces are around it."""
        self._skip_space()
        end = _match(_KEY, self._text, self._at)
        table: Any = tomllib.loads(f"{self._text[self._at : end]} = 0")
        self._at = end
        keys: list[str] = []
        while table != 0:
            ((key, table),) = table.items()
            keys.append(key)
        self._skip_space()
        return tuple(keys)

    def _header(self) -> Path:
        is_array = self._text.startswith("[[", self._at)
        width = 2 if is_array else 1
        begin = self._at
        self._at += width
        keys = self._key()
        end = self._at + width
        self._at = begin
        path: Path = ()
        for number, key in enumerate(keys, start=1):
            path = (*path, key)
            if is_array and number == len(keys):
                self._sizes[path] = self._sizes.get(path, 0) + 1
            self._note(path)
            if path in self._sizes:  # [[a]] was before: it is the last of its elements that is meant
                path = (*path, self._sizes[path] - 1)
                self._note(path)
        self._at = end
        return path

    def _pair(self, table: Path) -> None:
        begin = self._at
        keys = self._key()
        end = self._at
        self._at = begin
        for number in range(1, len(keys) + 1):
            self._note((*table, *keys[:number]))
        self._at = end + 1  # the equals sign
        self._skip_space()
        self._value((*table, *keys))

    def _value(self, path: Path) -> None:
        first = self._text[self._at]
        if first == "[":
            self._items("]", path)
        elif first == "{":
            self._items("}", path)
        elif first in "\"'":
            self._at = _match(_STRING, self._text, self._at)
        else:
            self._at = _match(_SCALAR, self._text, self._at)

    def _items(self, closing: str, path: Path) -> None:
        self._at += 1
        number = 0
        while self._text[self._skip_space()] != closing:
            if closing == "}":
                self._pair(path)
            else:
                self._note((*path, number))
                self._value((*path, number))
                number += 1
            if self._text[self._skip_space()] == ",":
                self._at += 1
        self._at += 1


def _match(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return at if match is None else match.end()
