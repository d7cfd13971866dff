"""Semantic versions of services. Source: semver.org."""

from __future__ import annotations

import re

# https://semver.org, "Is there a suggested regular expression": ADR-32 demands it, without a leading "v".
_NUMBER = r"(?:0|[1-9][0-9]*)"
_IDENTIFIER = rf"(?:{_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_SEMVER = re.compile(
    rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-{_IDENTIFIER}(?:\.{_IDENTIFIER})*)?(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?\Z"
)

MAX_VERSION = 256
"""Characters of a version; others' versions come from the bus, where a number may be as long as a message."""


def check_version(version: str) -> str:
    """Return the version if it is a semantic one, ``1.2.3``. Raises ``ValueError`` otherwise."""
    if len(version) > MAX_VERSION or not _SEMVER.match(version):
        raise ValueError(
            f"version {version[:MAX_VERSION]!r} is not a semantic version such as '1.2.3' (ADR-32 demands one)"
        )
    return version


def version_key(version: str) -> tuple[tuple[int, int, int], bool, tuple[tuple[bool, int, str], ...]]:
    """Return a key that sorts semantic versions by precedence (semver.org, rule 11)."""
    core, _, pre = version.partition("+")[0].partition("-")
    major, minor, patch = (int(part) for part in core.split("."))
    identifiers = tuple(
        (not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in pre.split(".") if pre
    )
    return (major, minor, patch), not pre, identifiers
