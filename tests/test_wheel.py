"""The wheel alone, in an empty environment, serves a project of the user's own: the one that the README shows."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dev import Dev, assert_prints, natsmesh_dev
from tests.snippets import README, snippets

ROOT = README.parent

pytestmark = pytest.mark.timeout(300)


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | environment
    result = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=280)
    assert result.returncode == 0, f"{command}:\n{result.stdout}{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("natsmesh-*.whl")
    return built


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that has nothing but the wheel, what it depends on, and pytest."""
    environment = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", environment, cwd=environment)
    pip = environment / "bin" / "pip"
    run(pip, "install", "--quiet", "--disable-pip-version-check", f"{wheel}[testing]", cwd=environment)
    return environment / "bin"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The README's project, written into an empty folder."""
    folder = tmp_path_factory.mktemp("project")
    for snippet in snippets("project"):
        if snippet.path:
            file = folder / snippet.path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(snippet.text)
    return folder


@pytest.fixture(scope="module")
def dev(project: Path, programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    with natsmesh_dev(project, programs, tmp_path_factory.mktemp("log") / "dev.log") as running:
        yield running


def test_it_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"rpc", "gateway", "natsmesh"}
    assert {f"{package}/py.typed" for package in ("rpc", "gateway", "natsmesh")} <= set(names)


def test_it_is_installed_whole(programs: Path, tmp_path: Path) -> None:
    run(programs / "pip", "--disable-pip-version-check", "check", cwd=tmp_path)
    where = run(programs / "python", "-c", "import rpc, gateway, natsmesh; print(rpc.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(programs.parent)


def test_the_commands_of_the_readme_work(dev: Dev, project: Path) -> None:
    commands = [snippet for snippet in snippets("project") if not snippet.path]
    assert commands[0].text == "natsmesh dev\n"
    for snippet in commands[1:]:
        assert_prints(snippet, dev.run(snippet, project))


def test_every_command_explains_itself(programs: Path, tmp_path: Path) -> None:
    for command in ("broker", "serve", "gateway", "dev", "list", "describe", "call", "protos", "version"):
        assert f"natsmesh {command}" in run(programs / "natsmesh", command, "--help", cwd=tmp_path)
