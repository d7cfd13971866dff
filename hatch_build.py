"""Hatchling's build hook: the code of ``proto/mesh`` (jobs, events and their options) goes into every installation.

A wheel gets it as the package ``mesh``, with the ``.proto`` files beside the code, as googleapis-common-protos does:
protoc finds ``mesh/v1/options.proto`` there. An editable installation gets it in ``gen/``, until ``make`` makes that.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class MeshCode(BuildHookInterface[Any]):
    """Generates the package ``mesh`` while a wheel is built."""

    _folder: Path | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Generate; ``version`` is "standard" or "editable"."""
        if self.target_name != "wheel":
            return
        protos, gen = Path(self.root, "proto"), Path(self.root, "gen")
        if version == "editable":
            if not (gen / ".generated").exists():  # What make writes when it has made everything.
                gen.mkdir(exist_ok=True)
                build_data["dependencies"] += _generate(protos, gen)
            return
        self._folder = folder = Path(tempfile.mkdtemp(prefix="natsmesh-mesh-"))
        build_data["dependencies"] += _generate(protos, folder)
        shutil.copytree(protos / "mesh", folder / "mesh", dirs_exist_ok=True)
        for package in {file.parent for file in folder.rglob("*_pb2.py")}:
            (package / "py.typed").touch()
        build_data["force_include"][str(folder / "mesh")] = "mesh"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was generated: it is in the wheel."""
        if self._folder is not None:
            shutil.rmtree(self._folder)


def _generate(protos: Path, target: Path) -> list[str]:
    """Generate the code; return what it needs at run time: it refuses libraries that are older than its compiler."""
    google = find_spec("google.rpc")
    if google is None or not google.submodule_search_locations:
        raise RuntimeError("googleapis-common-protos is not installed where natsmesh is built")
    imported = Path(google.submodule_search_locations[0]).parents[1]
    outputs = [f"--{kind}_out={target}" for kind in ("python", "pyi", "grpc_python")]
    files = sorted(str(file) for file in (protos / "mesh").rglob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{protos}", f"-I{imported}", *outputs]
    subprocess.run([*command, *files], check=True, timeout=120)  # noqa: S603 - files of our own
    needed = []
    for library, pattern, sample in (
        ("protobuf", r"Protobuf Python Version: ([\d.]+)", "options_pb2.py"),
        ("grpcio", r"GRPC_GENERATED_VERSION = '([\d.]+)'", "options_pb2_grpc.py"),
    ):
        found = re.search(pattern, (target / "mesh/v1" / sample).read_text())
        if found is None:
            raise RuntimeError(f"{sample} does not say which version of {library} it needs")
        needed.append(f"{library}>={found[1]}")
    return needed
