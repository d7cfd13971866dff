"""Where protoc finds what a project may import without having it: ``mesh``, ``google.api``, ``google.longrunning``."""

from __future__ import annotations

import sysconfig
from importlib.util import find_spec
from pathlib import Path

_OPERATIONS = "google/longrunning/operations.proto"


def includes() -> list[str]:
    """Return the values of protoc's option ``-I``: after the project's own folder, so that its files come first.

    Folders, and mappings ``name=path`` as protoc has them: googleapis-common-protos ships the standard
    ``google/longrunning/operations.proto`` under another name only.
    """
    found: dict[str, None] = {}
    ours = Path(__file__).parents[1]
    # In a wheel the .proto files are beside the code. Else this is the repository.
    mesh = next(
        (folder for folder in (ours / "mesh", ours / "proto/mesh") if (folder / "v1/options.proto").is_file()), None
    )
    if mesh is not None:
        found[f"mesh={mesh}"] = None
    spec = find_spec("google.longrunning")
    for location in (spec and spec.submodule_search_locations) or ():
        root = Path(location).parents[1]
        operations = Path(location, "operations_proto.proto")
        if not (root / _OPERATIONS).is_file() and operations.is_file():
            found[f"{_OPERATIONS}={operations}"] = None
        found[str(root)] = None
    found[sysconfig.get_path("purelib")] = None
    return list(found)
