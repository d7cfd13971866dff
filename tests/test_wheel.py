"""The wheel alone, in an empty environment, serves a project of the user's own: the one that the README shows."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dev import Dev, assert_prints, natsmesh_dev
from tests.snippets import README, snippets

ROOT = README.parent

SHOP = """
syntax = "proto3";
package shop.v1;
import "google/api/annotations.proto";
import "google/longrunning/operations.proto";
import "google/protobuf/empty.proto";
import "mesh/v1/options.proto";

service Shop {
  rpc Bake(BakeRequest) returns (google.longrunning.Operation) {
    option (google.api.http) = { post: "/v1/cakes" body: "*" };
    option (google.longrunning.operation_info) = { response_type: "Cake" };
    option (mesh.v1.method).retry_policy = { max_attempts: 3 };
  }
  rpc OnSold(Sold) returns (google.protobuf.Empty) { option (mesh.v1.method).subscribe = { ordered: true }; }
}
message BakeRequest {}
message Cake {}
message Sold { option (mesh.v1.event).key = "id"; string id = 1; }
"""

COMPILE = """
import asyncio
from pathlib import Path
from natsmesh.protoc import ProtoTree
tree = ProtoTree(Path("proto"), Path("dev"))
outcome = asyncio.run(tree.generate(tree.stale()))
assert not outcome.errors, outcome.errors
"""

LOOK = """
from rpc import MethodInfo
from shop.v1 import shop_pb2
bake, sold = map(MethodInfo.from_descriptor, shop_pb2.DESCRIPTOR.services_by_name["Shop"].methods)
print(bake.job.response_type, bake.job.retry.max_attempts)
print(sold.subscription.event, sold.subscription.event_options.key)
"""

pytestmark = pytest.mark.timeout(300)


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | environment
    result = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=280)
    assert result.returncode == 0, f"{command}:\n{result.stdout}{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # The source distribution, and of that the wheel, as it is published.
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
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
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"rpc", "gateway", "natsmesh", "mesh"}
    assert {f"{package}/py.typed" for package in ("rpc", "gateway", "natsmesh", "mesh/v1")} <= set(names)


def test_it_holds_our_options_and_what_they_are_made_of(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("mesh/")}
    protos = {str(path.relative_to(ROOT / "proto")) for path in (ROOT / "proto/mesh").rglob("*.proto")}
    assert protos == {name for name in names if name.endswith(".proto")}
    for proto in protos:
        stem = proto.removesuffix(".proto")
        assert {f"{stem}_pb2.py", f"{stem}_pb2.pyi", f"{stem}_pb2_grpc.py"} <= names


def test_it_wants_libraries_that_its_generated_code_accepts(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    required = archive.read(metadata).decode()
    for library, version in (
        ("protobuf", r"Protobuf Python Version: ([\d.]+)"),
        ("grpcio", r"GRPC_GENERATED_VERSION = '([\d.]+)'"),
    ):
        code = "".join(archive.read(f"mesh/v1/options_{kind}.py").decode() for kind in ("pb2", "pb2_grpc"))
        found = re.search(version, code)
        assert found
        assert f"Requires-Dist: {library}>={found[1]}\n" in required


def test_jobs_and_events_are_compiled_and_understood(programs: Path, tmp_path: Path) -> None:
    """By stock protoc, as docs/cli.md says, and by what natsmesh dev compiles with."""
    file = tmp_path / "proto/shop/v1/shop.proto"
    file.parent.mkdir(parents=True)
    file.write_text(SHOP)
    command = 'mkdir plain && python -m grpc_tools.protoc -Iproto -I"$(natsmesh protos)" --python_out=plain "$0"'
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    run("sh", "-e", "-c", command, "proto/shop/v1/shop.proto", cwd=tmp_path, PATH=path)
    (tmp_path / "dev").mkdir()
    (tmp_path / "compile.py").write_text(COMPILE)
    run(programs / "python", "compile.py", cwd=tmp_path)
    for folder in ("plain", "dev"):
        printed = run(programs / "python", "-c", LOOK, cwd=tmp_path, PYTHONPATH=str(tmp_path / folder))
        assert printed == "shop.v1.Cake 3\nshop.v1.Sold id\n"


def test_a_fresh_clone_can_be_installed_for_editing(tmp_path: Path) -> None:
    """Without make: the code of proto/mesh is generated then, too."""
    for name in ("rpc", "gateway", "natsmesh", "proto"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    build = "import sys; from hatchling.build import build_editable; build_editable(sys.argv[1])"
    run(sys.executable, "-c", build, tmp_path / "dist", cwd=tmp_path)
    assert (tmp_path / "gen/mesh/v1/options_pb2.py").is_file()
    (paths,) = (
        archive.read(name).decode().splitlines()
        for wheel in (tmp_path / "dist").glob("*.whl")
        for archive in [zipfile.ZipFile(wheel)]
        for name in archive.namelist()
        if name.endswith(".pth")
    )
    assert str(tmp_path / "gen") in paths


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
