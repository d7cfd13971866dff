"""What a project says about itself: ``pyproject.toml`` in the folder where a command is run."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from natsmesh.exits import Exit, Failure

_SEMVER = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?\Z")
_NO_VERSION = "0.0.0"


@cache
def _pyproject(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Failure(f"{path.name}: {error}", Exit.USAGE) from error


def service_version() -> str:
    """Return the project's version if it is a semantic one (ADR-32 asks for that), else 0.0.0."""
    version = _pyproject(Path.cwd() / "pyproject.toml").get("project", {}).get("version")
    return version if isinstance(version, str) and _SEMVER.match(version) else _NO_VERSION


def configured_services() -> list[str]:
    """Return ``[tool.natsmesh] services``. Raises ``Failure`` when it is no list of names."""
    table = _pyproject(Path.cwd() / "pyproject.toml").get("tool", {}).get("natsmesh", {})
    services = table.get("services", [])
    if not isinstance(services, list) or not all(isinstance(each, str) for each in services):
        expected = '["services.greeter:Greeter"]'
        raise Failure(f"pyproject.toml: [tool.natsmesh] services must be a list, e.g. {expected}", Exit.USAGE)
    return services
