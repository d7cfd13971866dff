"""Which services a project has: found by reading its sources, not by running them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SERVICES = "services"
"""The folder that is searched when nobody names the services."""

_LOOKS_LIKE_ONE = re.compile(r"^class\s+\w+\s*\([^)]*Servicer\b", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Process:
    """One back-end process of a project: its name, and what it serves."""

    name: str
    targets: tuple[str, ...]


def find_modules(folder: Path) -> list[str]:
    """Return the modules below ``folder``'s ``services`` that define servicer classes, as targets.

    A file that cannot be parsed, but looks as if it defined one, is among them: so its error is shown.
    """
    modules = []
    for file in sorted((folder / SERVICES).rglob("*.py")):
        module = ".".join(file.relative_to(folder).with_suffix("").parts).removesuffix(".__init__")
        if all(part.isidentifier() for part in module.split(".")) and _defines_servicer(file):
            modules.append(module)
    return modules


def processes(targets: Iterable[str]) -> list[Process]:
    """Return one process for each module, so that a mistake in one does not touch the others."""
    by_module: dict[str, list[str]] = {}
    for target in targets:
        by_module.setdefault(target.partition(":")[0], []).append(target)
    shorts = [module.rpartition(".")[2] for module in by_module]
    return [
        Process(short if shorts.count(short) == 1 else module, tuple(dict.fromkeys(named)))
        for (module, named), short in zip(by_module.items(), shorts, strict=True)
    ]


def _defines_servicer(file: Path) -> bool:
    text = file.read_text(encoding="utf-8", errors="replace")
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return _LOOKS_LIKE_ONE.search(text) is not None
    return any(
        isinstance(node, ast.ClassDef)
        and not node.name.startswith("_")
        and any(_last_name(base).endswith("Servicer") for base in node.bases)
        for node in tree.body
    )


def _last_name(node: ast.expr) -> str:
    match node:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
        case _:
            return ""
