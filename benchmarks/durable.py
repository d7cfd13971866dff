"""What the benchmarks of jobs and events run on: brokers that keep things, and peers in environments of their own.

All keep them equally well: what a broker has confirmed was handed to the operating system, which writes it to the disk
within about a second. So it outlives the broker's sudden end, and a power failure costs the last second.
JetStream: files, `sync_interval: 1s` (its default is two minutes). Redis: `appendonly yes`, `appendfsync everysec`.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.processes import HOST, ROOT, BenchmarkError, Stage, free_port, nats_server

REQUIREMENTS = ROOT / "benchmarks" / "requirements"
PROTO = ROOT / "benchmarks" / "proto"
ENVIRONMENTS = Path(sys.prefix) / "peers"

JETSTREAM_CONF = """
listen: "{host}:{port}"
jetstream {{ store_dir: "{folder}", sync_interval: "1s" }}
"""


def start_jetstream(stage: Stage) -> str:
    """The bundled nats-server with JetStream; returns its URL."""
    port = free_port()
    conf = stage.folder / "nats.conf"
    conf.write_text(JETSTREAM_CONF.format(host=HOST, port=port, folder=stage.folder / "jetstream"))
    stage.await_port(stage.spawn("broker", [nats_server(), "-c", conf]), port)
    return f"nats://{HOST}:{port}"


def start_redis(stage: Stage) -> int:
    """Redis; returns its port."""
    port = free_port()
    durable = ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
    command = ["redis-server", "--bind", HOST, "--port", str(port), "--dir", stage.folder, *durable]
    stage.await_port(stage.spawn("broker", command), port)
    return port


def redis_missing() -> str | None:
    """Why there is no Redis, or None."""
    if shutil.which("redis-server") is None:
        return "redis-server is not installed: apt install redis-server (Debian, Ubuntu), brew install redis (macOS)"
    return None


def peer_python(peer: str) -> Path:
    """The interpreter of a peer whose packages do not get along with the others'."""
    return ENVIRONMENTS / peer / "bin" / "python"


def peer_missing(peer: str) -> str | None:
    """Makes the peer's virtual environment, if it is not there or not up to date. Says why there is none, or None."""
    requirements = REQUIREMENTS / f"{peer}.txt"
    folder = ENVIRONMENTS / peer
    mark, wanted = folder / ".installed", hashlib.sha256(requirements.read_bytes()).hexdigest()
    if mark.exists() and mark.read_text() == wanted:
        return None
    print(f"installing {peer} into {folder}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    pip = [str(peer_python(peer)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for command in ([sys.executable, "-m", "venv", str(folder)], [*pip, "--requirement", str(requirements)]):
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        if finished.returncode:
            return f"{peer} could not be installed: {(finished.stderr or finished.stdout).strip()[-500:]}"
    mark.write_text(wanted)
    return None


def peer_versions(peer: str, *packages: str) -> dict[str, str]:
    """The versions of packages in a peer's environment."""
    names = ", ".join(map(repr, packages))
    code = f"from importlib.metadata import version\nfor name in ({names},): print(name, version(name))"
    finished = subprocess.run([peer_python(peer), "-c", code], capture_output=True, text=True, check=True)
    return dict(line.split() for line in finished.stdout.splitlines())


def generated(stage: Stage) -> Path:
    """Compiles the benchmarks' own .proto, with plain grpcio-tools; returns the folder to import from."""
    folder = stage.folder / "gen"
    folder.mkdir()
    includes = [PROTO, ROOT / "proto", Path(sys.prefix) / "protos"]
    command: list[str | Path] = [sys.executable, "-m", "grpc_tools.protoc", *(f"-I{include}" for include in includes)]
    command += [f"--python_out={folder}", f"--grpc_python_out={folder}", "bench/v1/bench.proto"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise BenchmarkError(f"bench.proto could not be compiled: {finished.stderr}")
    return folder


def python(module: str, *arguments: object) -> list[str]:
    """The command that runs a program of ours with this interpreter."""
    return [sys.executable, "-m", f"benchmarks.programs.{module}", *map(str, arguments)]
