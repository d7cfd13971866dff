"""The reference greeter on grpc.aio.

python -m benchmarks.programs.grpc_backend <port>
"""

import sys

import grpc
import uvloop

from greeter.v1 import greeter_pb2_grpc
from services.greeter import Greeter


async def main() -> None:
    server = grpc.aio.server()
    greeter_pb2_grpc.add_GreeterServicer_to_server(Greeter(), server)
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main())
