"""The schedules that the broker takes: cron expressions of six fields, ``@every``, ``@hourly`` and their like.

The broker says no more than "invalid" and only once a job is scheduled; here a mistake is found when the server starts.
Source of the grammar: NATS ADR-51.
"""

from __future__ import annotations

import re

NAMED = frozenset({"@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"})

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS: tuple[tuple[str, int, int, dict[str, int]], ...] = (
    ("second", 0, 59, {}),
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day of month", 1, 31, {}),
    ("month", 1, 12, {name: number for number, name in enumerate(_MONTHS, 1)}),
    ("day of week", 0, 6, {name: number for number, name in enumerate(_DAYS)}),
)
_PART = re.compile(
    r"(?:(?P<any>[*?])|(?P<first>[0-9a-z]{1,3})(?:-(?P<last>[0-9a-z]{1,3}))?)(?:/(?P<step>[0-9]{1,4}))?\Z"
)
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{1,9})?(?:h|ms|m|s))+\Z")
_DURATION_PART = re.compile(r"([0-9.]+)(h|ms|m|s)")


def check_schedule(text: str) -> str:
    """Return a schedule if the broker can follow it. Raises ``ValueError`` that says what is wrong with it."""
    if text.startswith("@every "):
        duration = text.removeprefix("@every ")
        if not _DURATION.match(duration):
            raise ValueError(f"{duration!r} is not a duration: write it like 90s, 5m or 1h30m")
        if sum(float(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(duration)) < 1:
            raise ValueError("@every takes 1s and more")
        return text
    if text.startswith("@"):
        if text not in NAMED:
            raise ValueError(f"{text!r} is not known: there are @every and {', '.join(sorted(NAMED))}")
        return text
    fields = [field for field in text.split(" ") if field]
    if len(fields) != len(_FIELDS):
        raise ValueError(f"{text!r} must have six fields, seconds first, with spaces between them: '0 30 4 * * *'")
    for field, (name, low, high, names) in zip(fields, _FIELDS, strict=True):
        for part in field.lower().split(","):
            if not _is_valid(part, low, high, names):
                raise ValueError(f"{part!r} is no {name}: {low} to {high}, a range 1-5, a step */5, or a list of these")
    return text


def _is_valid(part: str, low: int, high: int, names: dict[str, int]) -> bool:
    match = _PART.match(part)
    if match is None or (match["step"] is not None and int(match["step"]) < 1):
        return False
    if match["any"]:
        return True
    numbers = [
        int(text) if text.isdecimal() else names.get(text, -1)
        for text in (match["first"], match["last"])
        if text is not None
    ]
    return all(low <= number <= high for number in numbers) and numbers[0] <= numbers[-1]
