"""What natsmesh's own tests use, for the tests of its users: ``docs/testing.md`` shows how.

- ``MemoryMesh``: a broker in this process, fast, with faults on demand.
- ``FakeClock``: time that passes when a test says so.
- pytest fixtures (``rpc.testing.plugin``, known to pytest by itself): ``memory_mesh``, ``nats_server``, ``nats_url``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rpc.testing.clock import FakeClock
    from rpc.transport.memory import MemoryConnection, MemoryMesh, MemoryMessage
else:
    # pytest imports this package in every run where natsmesh is installed, also in those that do not use it.
    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module 'rpc.testing' has no attribute {name!r}")
        from importlib import import_module  # noqa: PLC0415 - see above

        return getattr(import_module("rpc.testing.clock" if name == "FakeClock" else "rpc.transport.memory"), name)


__all__ = ["FakeClock", "MemoryConnection", "MemoryMesh", "MemoryMessage"]
