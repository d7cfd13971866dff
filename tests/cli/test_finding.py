"""The services of a project are found by reading it."""

from pathlib import Path

import pytest

from natsmesh.dev.finding import Process, find_modules, processes
from natsmesh.exits import Failure
from natsmesh.project import configured_services, service_version
from tests.cli.projects import edit, make_project


def test_finds_each_module_below_services_that_defines_a_servicer(tmp_path: Path) -> None:
    make_project(tmp_path, generate=False)
    more = tmp_path / "services/deep/more.py"
    more.parent.mkdir()
    classes = ("One(XServicer)", "_Base(XServicer)", "Two(One)")
    more.write_text("from x_pb2_grpc import XServicer\n" + "".join(f"class {each}: ...\n" for each in classes))
    assert find_modules(tmp_path) == ["services.deep.more", "services.shop"]


def test_a_file_that_cannot_be_parsed_is_not_passed_over(tmp_path: Path) -> None:
    make_project(tmp_path, generate=False)
    edit(tmp_path / "services/shop.py", "async def Price", "async deff Price")
    (tmp_path / "services/base.py").write_text("class _Base(XServicer): ...\nclass Two(_Base): ...\n")
    (tmp_path / "services/notes.py").write_text("this is no Python")
    assert find_modules(tmp_path) == ["services.shop"]


def test_a_process_serves_one_module() -> None:
    assert processes(["a.shop:One", "a.shop:Two", "b.shop:One", "c.till"]) == [
        Process("a.shop", ("a.shop:One", "a.shop:Two")),
        Process("b.shop", ("b.shop:One",)),
        Process("till", ("c.till",)),
    ]


def test_pyproject_names_services_and_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert (configured_services(), service_version()) == ([], "0.0.0")


@pytest.mark.parametrize(
    ("text", "services", "version"),
    [
        ('[project]\nversion = "1.2.3"\n[tool.natsmesh]\nservices = ["a:B"]\n', ["a:B"], "1.2.3"),
        ('[project]\nversion = "1.2"\n', [], "0.0.0"),
        ('[project]\ndynamic = ["version"]\n', [], "0.0.0"),
    ],
)
def test_pyproject_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, services: list[str], version: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text(text)
    assert (configured_services(), service_version()) == (services, version)


@pytest.mark.parametrize("text", ["[tool.natsmesh]\nservices = 'a:B'\n", "[tool\n"])
def test_a_mistake_in_pyproject_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(Failure, match=r"pyproject\.toml: "):
        configured_services()
