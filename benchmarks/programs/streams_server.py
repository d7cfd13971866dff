"""The server of the streams benchmark.

python -m benchmarks.programs.streams_server natsmesh <nats url>
python -m benchmarks.programs.streams_server grpc <host>:<port>
"""

from __future__ import annotations

import sys

import grpc
import uvloop

from benchmarks.programs.streams_service import OPTIONS, add_streams_to_server


def make_server(kind: str, target: str) -> grpc.aio.Server:
    """A server of the named kind: all in which the two differ."""
    if kind == "grpc":
        server = grpc.aio.server(options=OPTIONS)
        server.add_insecure_port(target)
        return server
    import rpc

    return rpc.Server(target, options=OPTIONS)


async def main() -> None:
    server = make_server(sys.argv[1], sys.argv[2])
    add_streams_to_server(server)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main())
