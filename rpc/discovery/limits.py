"""How much of what others say about themselves is taken in."""

from __future__ import annotations

MAX_SERVICES = 2000
"""Services that one watcher follows; further ones are passed over, loudly, unless one that is gone can make room."""

MAX_INSTANCES = 10_000
"""Instances of one service that one watcher follows."""

MAX_NAME = 256
"""Characters of the name of a service, and of the id of an instance."""

MAX_SCHEMA_MEMORY = 64 * 1024 * 1024
"""Bytes of the schemas that are remembered besides those that views show."""
