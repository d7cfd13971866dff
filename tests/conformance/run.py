"""Runs connectconformance, the suite of the Connect project, against the gateway with its service behind NATS.

python tests/conformance/run.py [options of connectconformance]

The suite and its protos are kept in .conformance/; Go is needed to get them there. The service runs here, as on any
``rpc.Server``; the gateways are processes that the suite starts by ``serve.py``, one for each kind of server it wants.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "gen"), str(HERE)]

from grpc_tools import protoc  # noqa: E402 - the paths come first

import rpc  # noqa: E402
from rpc.embedded import Broker  # noqa: E402

MODULE = "connectrpc.com/conformance"
VERSION = "v1.0.5"
CACHE = ROOT / ".conformance" / VERSION
LOG = CACHE.parent / "log"
PREFIX = "conformance"
GO = (1, 21)
"""The oldest that fetches the one which the suite asks for by itself."""


def check_go() -> None:
    """End here, and say what to do, without a Go that can build the suite."""
    if shutil.which("go") is None:
        sys.exit(f"the conformance suite is a Go program: install Go {'.'.join(map(str, GO))} or newer")
    version = subprocess.run(["go", "env", "GOVERSION"], check=True, capture_output=True, text=True).stdout.strip()
    numbers = tuple(int(number) for number in re.findall("[0-9]+", version)[:2])
    if numbers < GO:
        sys.exit(f"{version} is too old for the conformance suite: install Go {'.'.join(map(str, GO))} or newer")


def install() -> Path:
    """Return the command, installed with its protos if need be, into a folder of this project."""
    tool, protos = CACHE / "connectconformance", CACHE / "proto"
    if tool.exists() and protos.exists():
        return tool
    check_go()
    CACHE.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "GOBIN": str(CACHE)}
    subprocess.run(["go", "install", f"{MODULE}/cmd/connectconformance@{VERSION}"], check=True, env=environment)
    command = ["go", "mod", "download", "-json", f"{MODULE}@{VERSION}"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True)
    source = Path(json.loads(listed.stdout)["Dir"]) / "proto"
    shutil.copytree(source, protos, copy_function=shutil.copyfile, dirs_exist_ok=True)
    return tool


def generate(target: str) -> None:
    """Generate the code of the suite's protos."""
    protos = CACHE / "proto"
    files = [str(path.relative_to(protos)) for path in protos.rglob("*.proto")]
    includes = [f"-I{protos}", f"-I{Path(protoc.__file__).parent / '_proto'}"]
    if protoc.main(["protoc", *includes, f"--python_out={target}", f"--grpc_python_out={target}", *files]) != 0:
        sys.exit("the suite's protos cannot be compiled")


async def run(tool: Path, nats_url: str, code: str) -> int:
    """Serve the service while the suite runs. Returns the suite's exit code."""
    os.environ.update(
        CONFORMANCE_CODE=code, CONFORMANCE_NATS=nats_url, CONFORMANCE_PREFIX=PREFIX, CONFORMANCE_LOG=str(LOG)
    )
    server = rpc.Server(nats_url, prefix=PREFIX, options=[("grpc.max_receive_message_length", 64 * 1024 * 1024)])
    importlib.import_module("servicer").add_to_server(server)  # It needs the generated code.
    await server.start()
    # No more at once than there are likely to be cores: each has 10 seconds to start.
    options = ["--mode", "server", "--max-servers", "2", "--conf", str(HERE / "config.yaml"), *sys.argv[1:]]
    suite = await asyncio.create_subprocess_exec(tool, *options, "--", sys.executable, str(HERE / "serve.py"))
    try:
        return await suite.wait()
    finally:
        await server.stop(0)


def main() -> int:
    tool = install()
    LOG.unlink(missing_ok=True)
    logging.basicConfig(filename=LOG, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    with tempfile.TemporaryDirectory() as code, Broker(port=0) as broker:
        generate(code)
        failed = asyncio.run(run(tool, broker.url, code))
    if failed:
        sys.stderr.write(f"what gateways and service have logged is in {LOG.relative_to(ROOT)}\n")
    return failed


if __name__ == "__main__":
    sys.exit(main())
