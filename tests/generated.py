"""Generated code for tests: a ``.proto`` beside a test, compiled as a project would do it."""

from __future__ import annotations

from pathlib import Path

from grpc_tools import protoc

from natsmesh.protos import includes


def compile_contract(proto: Path, folder: Path) -> Path:
    """Write the code of ``<name>.proto``, of package ``<name>.v1``, into a folder below ``folder``; return that."""
    name = f"{proto.stem}/v1/{proto.name}"
    source = folder / "proto" / name
    source.parent.mkdir(parents=True)
    source.write_text(proto.read_text())
    target = folder / "gen"
    target.mkdir()
    arguments = [
        "protoc",
        f"-I{folder / 'proto'}",
        *(f"-I{include}" for include in includes()),
        f"-I{Path(protoc.__file__).parent / '_proto'}",
        f"--python_out={target}",
        f"--grpc_python_out={target}",
        name,
    ]
    assert protoc.main(arguments) == 0
    return target
