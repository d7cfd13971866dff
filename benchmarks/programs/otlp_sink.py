"""An OTLP/HTTP receiver that counts spans and keeps none.

    python -m benchmarks.programs.otlp_sink <port>

Prints the number of spans so far after each export.
"""

import gzip
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

LOCK = Lock()


class Receiver(BaseHTTPRequestHandler):
    """Takes traces; accepts metrics and logs unread."""

    protocol_version = "HTTP/1.1"
    spans = 0

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/v1/traces":
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            export = ExportTraceServiceRequest.FromString(body)
            arrived = sum(len(scope.spans) for resource in export.resource_spans for scope in resource.scope_spans)
            with LOCK:
                Receiver.spans += arrived
                print(Receiver.spans, flush=True)
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """No access log: the output is the count."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver).serve_forever()
