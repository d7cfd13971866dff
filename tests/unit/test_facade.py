"""``import rpc``: all names are there, and none of them costs anything before it is used."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import rpc
import rpc.testing

HEAVY = ("grpc", "nats", "google.protobuf", "opentelemetry", "uvloop")


@pytest.mark.parametrize("module", [rpc, rpc.testing], ids=lambda module: module.__name__)
def test_every_name_is_there(module: object) -> None:
    names: list[str] = module.__all__  # type: ignore[attr-defined]
    assert sorted(names) == names
    assert set(names) <= set(dir(rpc)) or module is not rpc
    for name in names:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Servant'"):
        module.Servant  # type: ignore[attr-defined]  # noqa: B018 - reading it is the test


def test_no_module_takes_the_place_of_a_name() -> None:
    for path in (Path(rpc.__file__).parent).glob("*.py"):
        if path.stem != "__init__":
            importlib.import_module(f"rpc.{path.stem}")
    assert callable(rpc.connect)
    assert callable(rpc.discover)
    assert isinstance(rpc.Call, type)


@pytest.mark.parametrize("module", ["rpc", "rpc.embedded", "rpc.testing", "rpc.testing.plugin"])
def test_what_is_not_used_is_not_imported(module: str) -> None:
    program = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=20)
    assert result.stdout.strip() == "[]"
