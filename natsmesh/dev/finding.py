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


def find_targets(folder: Path) -> list[str]:
    """Return a target for each servicer class below ``folder``'s ``services``.

    A file that cannot be parsed, but looks as if it defined a servicer, is a target as a whole: so its error is shown.
    """
    targets = []
    for file in sorted((folder / SERVICES).rglob("*.py")):
        module = ".".join(file.relative_to(folder).with_suffix("").parts).removesuffix(".__init__")
        if not all(part.isidentifier() for part in module.split(".")):
            continue
        text = file.read_text(encoding="utf-8", errors="replace")
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError):
            if _LOOKS_LIKE_ONE.search(text):
                targets.append(module)
            continue
        targets += [f"{module}:{name}" for name in _servicer_classes(tree)]
    return targets


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


def _servicer_classes(tree: ast.Module) -> list[str]:
    return [
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        and not node.name.startswith("_")
        and any(_last_name(base).endswith("Servicer") for base in node.bases)
    ]


def _last_name(node: ast.expr) -> str:
    match node:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
        case _:
            return ""
