"""What natsmesh's own tests use, for the tests of its users."""

from __future__ import annotations

from rpc.transport.memory import MemoryConnection, MemoryMesh, MemoryMessage

__all__ = ["MemoryConnection", "MemoryMesh", "MemoryMessage"]
