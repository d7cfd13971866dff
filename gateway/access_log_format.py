"""The names of the formats of an access log."""

from __future__ import annotations

from typing import Literal, TypeAlias

AccessLogFormat: TypeAlias = Literal["combined", "json", "text"]
"""Apache's combined log format; an object of JSON a line; a line for people."""
