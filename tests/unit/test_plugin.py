"""The pytest plugin as its users meet it: installed, found by pytest itself, in a project of their own."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
GUIDE = ROOT / "docs" / "testing.md"
FILES = re.findall(r"^```\w+ file=(\S+)\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)

Pytest = Callable[..., str]


@pytest.fixture
def run_pytest(tmp_path: Path) -> Pytest:
    """Runs pytest in an empty folder, and returns what it prints; it must succeed."""

    def run(*arguments: str, path: tuple[Path, ...] = ()) -> str:
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "NATS_"))}
        environment["PYTHONPATH"] = os.pathsep.join(map(str, path))
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
        result = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=50
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    return run


def test_the_guide_is_a_project_whose_tests_pass(run_pytest: Pytest, tmp_path: Path) -> None:
    assert {name for name, _ in FILES} >= {
        "conftest.py",
        "pytest.ini",
        "test_greeter.py",
        "test_time.py",
        "test_nats.py",
    }
    for name, text in FILES:
        (tmp_path / name).write_text(text)
    printed = run_pytest("-W", "error", "-q", path=(ROOT, ROOT / "gen"))
    tests = sum(text.count("\nasync def test_") for _, text in FILES)
    assert f"{tests} passed" in printed


def test_every_block_of_the_guide_is_run() -> None:
    blocks = re.findall(r"^```\w+.*$", GUIDE.read_text(), re.MULTILINE)
    assert len(blocks) == len(FILES)


def test_a_run_that_does_not_use_it_imports_nothing(run_pytest: Pytest, tmp_path: Path) -> None:
    (tmp_path / "test_unrelated.py").write_text(
        "import sys\n\n\n"
        "def test_unrelated():\n"
        "    loaded = {name for name in sys.modules if name.partition('.')[0] == 'rpc'}\n"
        "    assert loaded <= {'rpc', 'rpc.testing', 'rpc.testing.plugin'}\n"
        "    assert not {'google.protobuf', 'grpc', 'nats', 'opentelemetry'} & set(sys.modules)\n"
    )
    # Other plugins import what they like: here ours is alone.
    printed = run_pytest("-q", "-W", "error", "-p", "no:asyncio", "-p", "no:timeout", "-p", "no:hypothesispytest")
    assert "1 passed" in printed


def test_the_fixtures_say_what_they_are(run_pytest: Pytest) -> None:
    printed = run_pytest("--fixtures", "-q", "--collect-only")
    for name in ("memory_mesh", "nats_server", "nats_url"):
        assert re.search(rf"^{name}.*\n +\S.*", printed, re.MULTILINE), printed


def test_the_broker_ends_with_the_run(run_pytest: Pytest, tmp_path: Path) -> None:
    (tmp_path / "test_broker.py").write_text(
        "def test_broker(nats_server, nats_url):\n"
        "    assert nats_server.is_running and nats_server.url == nats_url\n"
        "    assert nats_server.store_dir.is_dir()\n"
        "    open('facts', 'w').write(f'{nats_server.pid} {nats_server.store_dir}')\n"
    )
    run_pytest("-q")
    pid, folder = (tmp_path / "facts").read_text().split()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)
    assert not Path(folder).exists()
