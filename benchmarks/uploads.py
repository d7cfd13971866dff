"""A large body through the gateway into a stream of HttpBody: how long it takes, and what the gateway holds meanwhile.

python -m benchmarks.uploads [--mib 1024]
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import time
from collections.abc import Iterator

from benchmarks.processes import HOST, BenchmarkError, Stage
from benchmarks.setups.natsmesh import start_broker, start_gateway

MEBIBYTE = 1024 * 1024


def upload(port: int, body: Iterator[bytes], size: int) -> int:
    """Sends a body and returns the size that the service has counted."""
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    headers = {"content-type": "application/octet-stream", "content-length": str(size)}
    connection.request("POST", "/v1/files", body=body, headers=headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    if answer.status != 200:
        raise BenchmarkError(f"{answer.status}: {text}")
    return int(json.loads(text).get("size", 0))


def until_served(port: int) -> None:
    """Repeats a small upload until discovery has got round."""
    end = time.monotonic() + 10
    while True:
        try:
            upload(port, iter([b"x"]), 1)
            return
        except (OSError, BenchmarkError):
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1024)
    size = parser.parse_args().mib * MEBIBYTE
    with Stage() as stage:
        nats_url = start_broker(stage)
        stage.spawn("back-end", [sys.executable, "-m", "benchmarks.programs.upload_service", nats_url])
        start_gateway(stage, nats_url, {})
        until_served(stage.gateway_port)
        before = stage.resident_bytes("gateway")
        peak = 0
        chunk = bytes(range(256)) * (MEBIBYTE // 256)

        def body() -> Iterator[bytes]:
            nonlocal peak
            for _ in range(size // MEBIBYTE):
                yield chunk
                peak = max(peak, stage.resident_bytes("gateway"))

        cpu = stage.cpu_seconds()
        started = time.perf_counter()
        counted = upload(stage.gateway_port, body(), size)
        seconds = time.perf_counter() - started
        used = {role: round(stage.cpu_seconds()[role] - cpu[role], 1) for role in cpu}
        if counted != size:
            raise BenchmarkError(f"{counted} of {size} bytes arrived")
        print(f"{size // MEBIBYTE} MiB in {seconds:.1f} s, {size / MEBIBYTE / seconds:.0f} MiB/s; CPU seconds: {used}")
        print(f"gateway: {before / 1e6:.0f} MB before, {peak / 1e6:.0f} MB at most")


if __name__ == "__main__":
    main()
