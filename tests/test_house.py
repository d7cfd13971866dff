"""The house keeps its plan: layers, file sizes, make targets, declared dependencies."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHIPPED = ("rpc", "gateway", "natsmesh")
CODE = (*SHIPPED, "services", "tests", "benchmarks")


def python_files(*folders: str) -> list[Path]:
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert files, f"no Python files under {folders}"
    return files


def test_imports_point_downwards() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([lint, "--no-logo"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=50)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("folder", CODE)
def test_files_are_short(folder: str) -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in python_files(folder)}
    assert {str(path): length for path, length in lengths.items() if length >= 600} == {}


def test_make_help_lists_every_target() -> None:
    declared = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    targets = {target for line in declared for target in line.split()}
    result = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=20)
    listed = dict(re.findall(r"^ +make ([a-z-]+) +(\S.*)$", result.stdout, re.MULTILINE))
    assert set(listed) == targets
    assert {"run", "test", "help"} <= targets


def test_what_is_shipped_depends_on_what_is_declared() -> None:
    """An import that only works because a development tool brings the package would break the wheel."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = {normalized(requirement) for requirement in (*project["dependencies"], *extras["testing"])}
    providers = importlib.metadata.packages_distributions()
    standard = {*sys.stdlib_module_names, "compression"}  # which Python 3.14 has
    providers["protobuf"] = ["protobuf-py"]  # which chooses between protobuf-py-ext and protobuf-py-pure
    undeclared = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in python_files(*SHIPPED)
        for name in imported_names(path)
        if name not in standard
        and name not in (*SHIPPED, "mesh")
        and not declared & {normalized(distribution) for distribution in providers.get(name, ())}
    }
    assert undeclared == set()


def normalized(requirement: str) -> str:
    """The distribution's name in the spelling of PEP 503, without version, extras and marker."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match, requirement
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def imported_names(path: Path) -> set[str]:
    """Top-level names that a module imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), filename=str(path))):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names.add(node.module.partition(".")[0])
    return names
