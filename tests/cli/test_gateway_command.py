"""``natsmesh gateway``: starts, shares its port, ends with whoever started it, explains what is wrong."""

import json
import signal
import socket
import urllib.request
from pathlib import Path

import pytest

from tests.cli.commands import Commands, children, closing, free_port, is_alive, until

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


def test_options_come_from_a_file_too_and_flags_win(project: Path, tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    with closing(Commands(project)) as commands:
        path.write_text("port = 70000\nworkers = 1.5\n")
        refused = commands.run("gateway", "--config", str(path))
        assert refused.returncode == 2
        assert f"{path}:1: port: 70000: choose" in refused.stderr
        assert f"{path}:2: workers: expected a whole number" in refused.stderr
        path.write_text('nats_url = "nats://127.0.0.1:9"\nport = 0\n')
        from_file = commands.run("gateway", "--config", str(path))
        assert from_file.returncode == 3
        assert "127.0.0.1:9" in from_file.stderr
        for words, variables in ((["--nats", "nats://127.0.0.1:8"], {}), ([], {"NATS_URL": "nats://127.0.0.1:8"})):
            assert "127.0.0.1:8" in commands.run("gateway", "--config", str(path), *words, **variables).stderr
        wrong = commands.run("gateway", "--config", str(path), "--cors-origin", "x")
        assert wrong.returncode == 2
        assert "--cors-origin: 'x' is none" in wrong.stderr
    assert commands.run("gateway", "--config", str(tmp_path / "missing")).returncode == 2
