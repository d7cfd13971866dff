"""Runs connectconformance, the suite of the Connect project, against the gateway with its service behind NATS.

python tests/conformance/run.py [options of connectconformance]

Needs Go, or ``connectconformance`` on the PATH and its module in Go's cache (the protos are taken from there).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "gen")]

from grpc_tools import protoc  # noqa: E402 - the paths come first

from rpc.embedded import Broker  # noqa: E402

MODULE = "connectrpc.com/conformance"
VERSION = "v1.0.5"


def find_tool() -> str:
    """Return the command, installed if need be."""
    found = shutil.which("connectconformance")
    if found:
        return found
    subprocess.run(["go", "install", f"{MODULE}/cmd/connectconformance@{VERSION}"], check=True)
    listed = subprocess.run(["go", "env", "GOBIN", "GOPATH"], check=True, capture_output=True, text=True)
    binaries, path = listed.stdout.splitlines()
    return str(Path(binaries or Path(path) / "bin") / "connectconformance")


def protos() -> Path:
    """Return where the module has its protos."""
    command = ["go", "mod", "download", "-json", f"{MODULE}@{VERSION}"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True)
    return Path(json.loads(listed.stdout)["Dir"]) / "proto"


def main() -> int:
    tool = find_tool()
    source = protos()
    with tempfile.TemporaryDirectory() as code, Broker(port=0) as broker:
        files = [str(path.relative_to(source)) for path in source.rglob("*.proto")]
        arguments = [
            f"-I{source}",
            f"-I{Path(protoc.__file__).parent / '_proto'}",
            f"--python_out={code}",
            f"--grpc_python_out={code}",
            *files,
        ]
        if protoc.main(["protoc", *arguments]) != 0:
            return 1
        environment = {**os.environ, "CONFORMANCE_CODE": code, "CONFORMANCE_NATS": broker.url}
        options = ["--mode", "server", "--conf", str(HERE / "config.yaml"), *sys.argv[1:]]
        command = [tool, *options, "--", sys.executable, str(HERE / "serve.py")]
        return subprocess.run(command, check=False, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
