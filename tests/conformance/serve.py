"""The server under test: a gateway process, and the service behind NATS. connectconformance runs this, see run.py."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import struct
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "gen"), str(Path(__file__).parent)]

import servicer  # noqa: E402 - the paths come first
from connectrpc.conformance.v1 import server_compat_pb2  # noqa: E402

import rpc  # noqa: E402
from tests.gateway.processes import free_port  # noqa: E402

HOST = "127.0.0.1"


def read_request() -> server_compat_pb2.ServerCompatRequest:
    """Read from stdin what kind of server is wanted."""
    (size,) = struct.unpack(">I", sys.stdin.buffer.read(4))
    return server_compat_pb2.ServerCompatRequest.FromString(sys.stdin.buffer.read(size))


def start_gateway(prefix: str, limit: int) -> tuple[subprocess.Popen[bytes], int]:
    """Start a gateway of its own for this server, and wait until it is ready."""
    port = free_port()
    options: dict[str, object] = {"host": HOST, "port": port, "prefix": prefix, "grace": 0}
    options["nats_url"] = os.environ["CONFORMANCE_NATS"]
    options["timeout"] = None  # The suite checks that the service sees no deadline when its client has none.
    if limit:
        options["max_body"] = limit
    script = ROOT / "tests" / "gateway" / "serve_gateway.py"
    process = subprocess.Popen([sys.executable, str(script), json.dumps(options)], stdin=subprocess.DEVNULL)
    end = time.monotonic() + 20
    while True:
        try:
            urllib.request.urlopen(f"http://{HOST}:{port}/readyz", timeout=1)
            return process, port
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


async def main() -> None:
    wanted = read_request()
    prefix = f"c{secrets.token_hex(4)}"
    limit = ("grpc.max_receive_message_length", 64 * 1024 * 1024)
    server = rpc.Server(os.environ["CONFORMANCE_NATS"], prefix=prefix, options=[limit])
    servicer.add_to_server(server)
    await server.start()
    gateway, port = await asyncio.to_thread(start_gateway, prefix, wanted.message_receive_limit)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    answer = server_compat_pb2.ServerCompatResponse(host=HOST, port=port).SerializeToString()
    sys.stdout.buffer.write(struct.pack(">I", len(answer)) + answer)
    sys.stdout.buffer.flush()
    await stop.wait()
    gateway.terminate()
    await server.stop(0)
    gateway.wait(10)


if __name__ == "__main__":
    asyncio.run(main())
