"""Protos that only tests use, compiled when this package is imported: `from tests.protos.probe_pb2 import Question`."""

import importlib
import sys
import sysconfig
import tempfile
from pathlib import Path

from grpc_tools import protoc

_SOURCES = Path(__file__).parent


def _compile_all() -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = sorted(str(path.relative_to(_SOURCES)) for path in _SOURCES.rglob("*.proto"))
        includes = [f"-I{_SOURCES}", f"-I{sysconfig.get_path('purelib')}"]
        outputs = [f"--python_out={folder}", f"--grpc_python_out={folder}"]
        if protoc.main(["protoc", *includes, *outputs, *files]) != 0:
            raise RuntimeError("tests/protos does not compile: see the lines above")
        sys.path.insert(0, folder)
        try:
            for file in files:
                package = file.removesuffix(".proto").replace("/", ".")
                for kind in ("pb2", "pb2_grpc"):
                    module = importlib.import_module(f"{package}_{kind}")
                    name = f"{package.rpartition('.')[2]}_{kind}"
                    globals()[name] = sys.modules[f"{__name__}.{name}"] = module
        finally:
            sys.path.remove(folder)


_compile_all()
