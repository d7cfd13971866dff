"""Projects, meshes and commands for the tests of the command line."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.commands import Commands, closing
from tests.cli.projects import make_project


@pytest.fixture
def prefix() -> str:
    """A mesh of its own for each test: they share a broker."""
    return f"t{secrets.token_hex(4)}"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's project, with its generated code."""
    return make_project(tmp_path / "project")


@pytest.fixture
def commands(project: Path, nats_url: str, prefix: str) -> Iterator[Commands]:
    """Runs commands in the project, on a mesh of its own."""
    with closing(Commands(project, NATS_URL=nats_url, NATSMESH_PREFIX=prefix)) as commands:
        yield commands
