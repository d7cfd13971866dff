"""The configuration file: TOML whose keys are the options of ``Config``, whose tables are those of its features.

Which keys there are, and of what type, the dataclasses say: a new one needs nothing here. All mistakes are found in one
reading, each with its line. What a file says is never repeated in a message, because there are secrets among it; units
and choices excepted.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import math
import re
import tomllib
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from gateway.option_types import ConfigError, Unit, parse_bytes, parse_seconds
from gateway.toml_lines import Path as Keys
from gateway.toml_lines import lines_of

C = TypeVar("C")

NONE: Final = "none"
"""What TOML has no word for: an option whose default is a limit goes without one."""

_DECODE_ERROR = re.compile(r"(.*) \(at (?:line ([0-9]+), column [0-9]+|end of document)\)", re.DOTALL)
_FIRST_WORD = re.compile(r"\w+")


class ConfigFileError(ConfigError):
    """A configuration file cannot be used: ``gateway.toml:7: timeout: ...``, one line for each mistake."""

    def __init__(self, path: Path, mistakes: list[tuple[int, str]]) -> None:
        self.mistakes = sorted(mistakes)
        """(line, what is wrong and what to do)"""
        super().__init__("\n".join(f"{path}:{line}: {text}" for line, text in self.mistakes))


def load_config(path: Path, kind: type[C]) -> C:
    """Return the options in a file. Relative file names in it are relative to its folder.

    Raises ``ConfigFileError`` with all mistakes, or ``OSError`` when the file cannot be read.
    """
    data = path.read_bytes()
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = 1 + data.count(b"\n", 0, error.start)
        raise ConfigFileError(path, [(line, "this is not UTF-8: save the file in that encoding")]) from None
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        match = _DECODE_ERROR.fullmatch(str(error))
        what, number = (match[1], match[2]) if match is not None else (str(error), None)
        line = int(number) if number else 1 + text.rstrip("\n").count("\n")
        raise ConfigFileError(path, [(line, f"no valid TOML: {what}")]) from None
    except RecursionError:
        raise ConfigFileError(path, [(1, "no valid TOML: nested too deeply")]) from None
    reader = _Reader(lines_of(text), path.absolute().parent)
    config = reader.section(kind, table, ())
    if reader.mistakes or config is None:
        raise ConfigFileError(path, reader.mistakes)
    return config


def with_values(options: C, values: Mapping[tuple[str, ...], Any]) -> C:
    """Return options with some values replaced: ``{("tls", "certificate"): ...}`` is one in a section.

    A section that was off is made of the values alone. Raises ``ConfigError``.
    """
    hints = get_type_hints(type(options))
    changes: dict[str, Any] = {path[0]: value for path, value in values.items() if len(path) == 1}
    for name in {path[0]: None for path in values if len(path) > 1}:
        inner = {path[1:]: value for path, value in values.items() if path[0] == name}
        section = getattr(options, name)
        if section is not None:
            changes[name] = with_values(section, inner)
            continue
        kind = next(each for each in (hints[name], *get_args(hints[name])) if dataclasses.is_dataclass(each))
        assert isinstance(kind, type)  # noqa: S101 - for the type checker
        missing = [field.name for field in _fields(kind) if _is_required(field) and (field.name,) not in inner]
        if missing:
            raise ConfigError(f"{name}: {', '.join(missing)} is missing")
        changes[name] = kind(**{path[0]: value for path, value in inner.items()})
    return dataclasses.replace(options, **changes)  # type: ignore[type-var]  # it is a dataclass


class _Wrong(Exception):  # noqa: N818 - how a value ends that has been reported
    """A value cannot be used; what is wrong has been noted."""


@dataclass(slots=True)
class _Reader:
    lines: dict[Keys, int]
    folder: Path
    mistakes: list[tuple[int, str]] = dataclasses.field(default_factory=list)

    def wrong(self, keys: Keys, text: str) -> _Wrong:
        """Note a mistake; for ``raise``."""
        known = keys
        while known not in self.lines:
            known = known[:-1]
        name = _dotted(keys)
        self.mistakes.append((self.lines[known], f"{name}: {text}" if name else text))
        return _Wrong()

    # -------------------------------------------------------------------------------------------------- sections

    def section(self, kind: type[C], table: Mapping[str, Any], keys: Keys) -> C | None:
        """Return the options in a table, None after mistakes."""
        hints = get_type_hints(kind, include_extras=True)
        fields = {field.name: field for field in _fields(kind)}
        before = len(self.mistakes)
        values: dict[str, Any] = {}
        for key, raw in table.items():
            if key not in fields:
                self.wrong((*keys, key), _unknown(key, raw, fields, hints))
                continue
            try:
                values[key] = self.value(hints[key], raw, (*keys, key))
            except _Wrong:
                continue
        absent = [name for name, field in fields.items() if _is_required(field) and name not in table]
        for name in absent:
            self.wrong(keys, f"{name} is missing: it has no default")
        if any(_is_required(fields[name]) and name not in values for name in fields):
            return None
        options = self._make(kind, values, keys)
        return options if len(self.mistakes) == before else None

    def _make(self, kind: type[C], values: dict[str, Any], keys: Keys) -> C | None:
        """Make the options. They refuse one value at a time: it is put aside, so that the others get their turn."""
        while True:
            try:
                return kind(**values)
            except ValueError as error:
                text = str(error)
                match = _FIRST_WORD.match(text)
                name = match[0] if match is not None else ""
                at = (*keys, name) if name in values else keys
                rest = text.removeprefix(name).lstrip(": ") if name in values else text
                self.wrong(at, rest)
                field = next((each for each in _fields(kind) if each.name == name), None)
                if name not in values or field is None or _is_required(field):
                    return None
                del values[name]

    # ---------------------------------------------------------------------------------------------------- values

    def value(self, hint: Any, raw: Any, keys: Keys) -> Any:
        """Return a value as its annotation wants it. Raises ``_Wrong``."""
        unit = None
        if get_origin(hint) is Annotated:
            unit = next((each for each in hint.__metadata__ if isinstance(each, Unit)), None)
            hint = get_args(hint)[0]
        origin = get_origin(hint)
        if origin in (Union, types.UnionType):
            return self._union(get_args(hint), raw, keys)
        if origin is Literal:
            if raw in get_args(hint) and type(raw) in {type(each) for each in get_args(hint)}:
                return raw
            raise self.wrong(keys, f"expected {_one_of(get_args(hint))}")
        if dataclasses.is_dataclass(hint) or origin in (dict, Mapping):
            return self._table(hint, raw, keys)
        if origin in (tuple, list, frozenset):
            if not isinstance(raw, list):
                raise self.wrong(keys, f"expected a list in [brackets], got {_kind(raw)}")
            return origin(self._all(get_args(hint)[0], dict(enumerate(raw)), keys).values())
        return self._scalar(hint, unit, raw, keys)

    def _union(self, hints: tuple[Any, ...], raw: Any, keys: Keys) -> Any:
        choices = [hint for hint in hints if hint is not type(None)]
        if len(choices) < len(hints) and raw == NONE:
            return None
        if Path in choices:
            choices = [hint for hint in choices if hint is not str]
        before = list(self.mistakes)
        for hint in choices:
            try:
                value = self.value(hint, raw, keys)
            except _Wrong:
                continue
            self.mistakes[:] = before
            return value
        if len(choices) > 1:
            reasons = [text.removeprefix(f"{_dotted(keys)}: ") for _, text in self.mistakes[len(before) :]]
            self.mistakes[:] = before
            self.wrong(keys, "; or ".join(dict.fromkeys(reasons)))
        raise _Wrong

    def _table(self, hint: Any, raw: Any, keys: Keys) -> Any:
        if not isinstance(raw, dict):
            raise self.wrong(keys, f"expected a table ([{_dotted(keys)}]), got {_kind(raw)}")
        if not dataclasses.is_dataclass(hint):
            return self._all(get_args(hint)[1], raw, keys)
        assert isinstance(hint, type)  # noqa: S101 - for the type checker
        section = self.section(hint, raw, keys)
        if section is None:
            raise _Wrong
        return section

    def _all(self, hint: Any, raw: Mapping[Any, Any], keys: Keys) -> dict[Any, Any]:
        values: dict[Any, Any] = {}
        for key, each in raw.items():
            try:
                values[key] = self.value(hint, each, (*keys, key))
            except _Wrong:
                continue
        if len(values) < len(raw):
            raise _Wrong
        return values

    def _scalar(self, hint: Any, unit: Unit | None, raw: Any, keys: Keys) -> Any:
        if unit is not None and isinstance(raw, str):
            parse: Callable[[str], float] = parse_bytes if unit is Unit.BYTES else parse_seconds
            try:
                return hint(parse(raw))
            except ValueError as error:
                raise self.wrong(keys, str(error)) from None
        if isinstance(hint, type) and issubclass(hint, enum.Enum):
            if raw in [each.value for each in hint]:
                return hint(raw)
            raise self.wrong(keys, f"expected {_one_of(tuple(each.value for each in hint))}")
        if hint is float and isinstance(raw, int) and not isinstance(raw, bool):
            raw = float(raw)
        if hint is Path and isinstance(raw, str) and raw:
            return self.folder / Path(raw).expanduser()
        if type(raw) is not hint or (hint is float and not math.isfinite(raw)):
            expected = _EXPECTED[hint] + (_UNITS[unit] if unit is not None else "")
            raise self.wrong(keys, f"expected {expected}, got {_kind(raw)}")
        return raw


_EXPECTED: Final[dict[Any, str]] = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "text in quotes",
    Path: "the name of a file in quotes",
}
_UNITS: Final = {Unit.BYTES: ' of bytes, or a size like "16 MiB"', Unit.SECONDS: ' of seconds, or a time like "30s"'}
_KINDS: Final = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a table",
}


def _kind(raw: Any) -> str:
    return _KINDS.get(type(raw), "a date or time") if raw != "" else "empty text"


def _one_of(values: tuple[Any, ...]) -> str:
    shown = [f'"{each}"' if isinstance(each, str) else str(each).lower() for each in values]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} or {shown[-1]}"


def _dotted(keys: Keys) -> str:
    """Return keys as TOML has them, elements of arrays by their number from 1 on."""
    text = ""
    for key in keys:
        if isinstance(key, int):
            text += f"[{key + 1}]"
        else:
            shown = key if re.fullmatch(r"[A-Za-z0-9_-]{1,60}", key) else f'"{key[:60]}"'
            text += f".{shown}" if text else shown
    return text


def _unknown(key: str, raw: Any, fields: Mapping[str, Any], hints: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(key.replace("-", "_").lower(), fields, 1, 0.6)
    if close:
        return f"there is no such option; did you mean {close[0]}?"
    if isinstance(raw, dict):
        tables = [name for name in fields if _is_table(hints[name])]
        return f"there is no such table; there are {', '.join(tables)}" if tables else "there is no such table"
    return "there is no such option here"


def _is_table(hint: Any) -> bool:
    return dataclasses.is_dataclass(hint) or get_origin(hint) in (dict, Mapping) or any(map(_is_table, get_args(hint)))


def _fields(kind: Any) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(kind) if field.init and field.metadata.get("file", True)]


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
