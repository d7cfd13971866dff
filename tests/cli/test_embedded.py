"""The embedded broker: starts, stops, says what is wrong, leaves nothing behind."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rpc.embedded import MAX_PAYLOAD, Broker, BrokerError, PortTakenError, read_info


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return sys.platform != "linux"
    return state != "Z"


def test_starts_with_jetstream_and_room_for_photos_and_ends_without_a_trace() -> None:
    with Broker(port=0) as broker:
        info = read_info("127.0.0.1", broker.port)
        assert info is not None
        assert info["jetstream"] is True
        assert info["max_payload"] == MAX_PAYLOAD
        store, pid = broker.store_dir, broker.pid
        assert store is not None
        assert store.is_dir()
        assert pid is not None
    assert not store.exists()
    assert not is_alive(pid)
    assert not broker.is_running
    with pytest.raises(OSError, match="refused"):
        read_info("127.0.0.1", broker.port)


async def test_starts_without_blocking_the_event_loop() -> None:
    async with Broker(port=0) as broker:
        assert broker.is_running
        assert read_info("127.0.0.1", broker.port)
    assert not broker.is_running


def test_keeps_port_and_data_over_a_crash_and_over_a_stop(tmp_path: Path) -> None:
    broker = Broker(port=0, store_dir=tmp_path)
    url = broker.start()
    broker.kill()
    assert broker.start() == url
    broker.stop()
    assert (tmp_path / "jetstream").is_dir()
    assert broker.start() == url
    broker.stop()
    broker.stop()


def test_a_taken_port_is_named_with_what_listens_there() -> None:
    with Broker(port=0) as broker, pytest.raises(PortTakenError) as taken:
        Broker(port=broker.port).start()
    assert taken.value.is_nats
    assert f"port {broker.port} on 127.0.0.1 is taken" in str(taken.value)
    assert f"NATS_URL=nats://127.0.0.1:{broker.port}" in str(taken.value)

    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortTakenError, match=f"port {port} .* another program") as taken:
            Broker(port=port).start()
    assert not taken.value.is_nats


def test_one_store_is_for_one_broker(tmp_path: Path) -> None:
    with Broker(port=0, store_dir=tmp_path), pytest.raises(BrokerError, match="another broker stores its data in"):
        Broker(port=0, store_dir=tmp_path).start()
    with Broker(port=0, store_dir=tmp_path):
        pass


def test_a_mistake_in_the_configuration_is_shown_as_the_server_says_it() -> None:
    with pytest.raises(BrokerError, match=r"exit code 1.*\n.*Parse error on line"):
        Broker(port=0, config="accounts {").start()


def test_ends_with_the_process_that_started_it_even_when_that_is_killed() -> None:
    program = (
        "import time; from rpc.embedded import Broker\n"
        "b = Broker(port=0); b.start(); print(b.pid, b.store_dir, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid, store = parent.stdout.readline().split()
    assert is_alive(int(pid))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    until(lambda: not is_alive(int(pid)))
    until(lambda: not Path(store).parent.exists())
