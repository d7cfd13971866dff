"""A greeter for test_end_to_end.py: a plain function, so it runs in a thread; with a log line and a span of its own."""

import logging

import grpc
from opentelemetry import trace

from greeter.v1 import greeter_pb2, greeter_pb2_grpc

logger = logging.getLogger("traced_greeter")
tracer = trace.get_tracer("application")


class TracedGreeter(greeter_pb2_grpc.GreeterServicer):
    """Greets, unless the name is Zero."""

    def SayHello(self, request: greeter_pb2.HelloRequest, context: grpc.ServicerContext) -> greeter_pb2.HelloReply:
        logger.info("greeting %s", request.name)
        with tracer.start_as_current_span("choose words"):
            words = "Hello" if request.name != "Zero" else str(1 // 0)
        return greeter_pb2.HelloReply(message=f"{words}, {request.name}!")
