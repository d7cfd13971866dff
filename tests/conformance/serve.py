"""A server under test: a gateway in front of the mesh. connectconformance runs this, see run.py."""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import connectrpc

ROOT = Path(__file__).parent.parent.parent
# The suite's package has the name of the one that the gateway uses.
connectrpc.__path__.append(str(Path(os.environ["CONFORMANCE_CODE"]) / "connectrpc"))
pb: Any = importlib.import_module("connectrpc.conformance.v1.server_compat_pb2")

HOST = "127.0.0.1"


def read_request() -> Any:
    """Read from stdin what kind of server is wanted."""
    (size,) = struct.unpack(">I", sys.stdin.buffer.read(4))
    return pb.ServerCompatRequest.FromString(sys.stdin.buffer.read(size))


def options(wanted: Any, port: int, folder: Path) -> dict[str, Any]:
    """Return the options of such a gateway."""
    options: dict[str, Any] = {"host": HOST, "port": port, "grace": 0}
    options |= {"nats_url": os.environ["CONFORMANCE_NATS"], "prefix": os.environ["CONFORMANCE_PREFIX"]}
    options["timeout"] = None  # The suite checks that the service sees no deadline when its client has none.
    if wanted.message_receive_limit:
        options["max_body"] = wanted.message_receive_limit
    if wanted.use_tls:
        files = {"certificate": wanted.server_creds.cert, "key": wanted.server_creds.key}
        if wanted.client_tls_cert:
            files["client_ca"] = wanted.client_tls_cert
        for name, content in files.items():
            (folder / name).write_bytes(content)
        options["tls"] = {name: str(folder / name) for name in files}
    return options


def is_up(port: int) -> bool:
    """Tell whether the gateway answers. One with TLS hangs up, for this is a mistake, but not before it serves."""
    try:
        with socket.create_connection((HOST, port), 30) as connection:
            connection.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
            connection.recv(1)
    except ConnectionRefusedError:
        return False
    except ConnectionResetError:
        return True
    return True


def main() -> None:
    wanted = read_request()
    with tempfile.TemporaryDirectory() as folder, socket.socket() as holder:
        # Nobody else gets this port while it is held. The gateway may listen on it all the same, for it sets the same
        # option; were it set before, two of us might get one port.
        holder.bind((HOST, 0))
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port = holder.getsockname()[1]
        chosen = options(wanted, port, Path(folder))
        script = ROOT / "tests" / "gateway" / "serve_gateway.py"
        command = [sys.executable, str(script), json.dumps(chosen)]
        with Path(os.environ["CONFORMANCE_LOG"]).open("ab") as log:
            gateway = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        signal.signal(signal.SIGTERM, lambda *_: gateway.terminate())
        while not is_up(port):
            if gateway.poll() is not None:
                sys.exit("the gateway did not start")
            time.sleep(0.02)
        shown = wanted.server_creds.cert if wanted.use_tls else b""
        answer = pb.ServerCompatResponse(host=HOST, port=port, pem_cert=shown)
        data = answer.SerializeToString()
        sys.stdout.buffer.write(struct.pack(">I", len(data)) + data)
        sys.stdout.buffer.flush()
        gateway.wait()


if __name__ == "__main__":
    main()
