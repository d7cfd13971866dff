"""Options that are times or sizes: numbers with a unit."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import click


class _Quantity(click.ParamType[float]):
    """A number with a unit."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds or bytes."""
        if not isinstance(value, str):
            return float(value)
        try:
            return self.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)

    def parse(self, text: str) -> float:
        """Read what was typed. Raises ``ValueError``."""
        raise NotImplementedError


class _Seconds(_Quantity):
    name = "TIME"

    def parse(self, text: str) -> float:
        from gateway.option_types import parse_seconds

        try:
            value = float(text) if text[-1:].isdigit() else parse_seconds(text)
            if math.isfinite(value):
                return value
        except ValueError:
            pass
        raise ValueError(f"{text!r}: expected seconds, or a time such as 500ms, 30s, 5m or 2h")


class _Size(_Quantity):
    name = "SIZE"

    def parse(self, text: str) -> float:
        from gateway.option_types import parse_bytes

        return parse_bytes(text)  # A number alone is refused: is it bytes, is it MiB?


class _SyncInterval(_Seconds):
    name = "TIME|always"

    def parse(self, text: str) -> float:
        if text == "always":
            return 0.0
        with contextlib.suppress(ValueError):
            if (seconds := super().parse(text)) > 0:
                return seconds
        raise ValueError(f"{text!r}: expected a time such as 500ms, 1s or 2m, or always")


SECONDS = _Seconds()
SIZE = _Size()
SYNC_INTERVAL = _SyncInterval()
"""0 for always."""
