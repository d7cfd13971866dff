"""``natsmesh gateway``: starts, shares its port, ends with whoever started it, explains what is wrong."""

import json
import signal
import socket
import urllib.request

import pytest

from tests.cli.commands import Commands, children, free_port, is_alive, until

READY = r"^\d\d:.* serving"


def price(port: int) -> dict[str, int] | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/prices/apple", timeout=5) as response:
            answer: dict[str, int] = json.load(response)
            return answer
    except OSError:
        return None


@pytest.mark.parametrize("workers", ["1", "2"])
def test_serves_the_mesh_and_stops(commands: Commands, workers: str) -> None:
    port = free_port()
    gateway = commands.start("gateway", "--port", str(port), "--workers", workers, "--access-log")
    commands.start("serve", "services.shop:Shop").says(READY)
    until(lambda: price(port) == {"cents": 30}, "the gateway has learned the service")
    started = children(gateway.pid)
    assert gateway.stop(signal.SIGTERM) == 0
    until(lambda: not [pid for pid in started if is_alive(pid)], "multiprocessing's resource tracker, too, is gone")
    assert "Traceback" not in gateway.output


def test_no_worker_outlives_a_killed_gateway(commands: Commands) -> None:
    port = free_port()
    gateway = commands.start("gateway", "--port", str(port), "--workers", "2")
    until(lambda: len(children(gateway.pid)) >= 2, "its workers run")
    commands.start("serve", "services.shop:Shop").says(READY)
    until(lambda: price(port) == {"cents": 30})
    workers = children(gateway.pid)
    gateway.kill()
    until(lambda: not [pid for pid in workers if is_alive(pid)], "its workers end")


def test_a_taken_port_and_a_missing_broker_are_explained(commands: Commands) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        taken = commands.run("gateway", "--host", "127.0.0.1", "--port", port)
        assert taken.returncode == 4
        assert port in taken.stderr
        assert "--port" in taken.stderr
    missing = commands.run("gateway", "--port", str(free_port()), NATS_URL="nats://127.0.0.1:9")
    assert missing.returncode == 3
    assert "NATS_URL points there" in missing.stderr


def test_wrong_options_are_refused(commands: Commands) -> None:
    for words in (["--timeout", "0"], ["--max-body", "0"], ["--workers", "0"], ["--port", "70000"]):
        assert commands.run("gateway", *words).returncode == 2
