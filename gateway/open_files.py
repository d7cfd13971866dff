"""How many files a process may have open: each connection is one, and the usual limit is meant for other programs."""

from __future__ import annotations

import dataclasses
import logging
import sys
from typing import Final

from gateway.config import Config

logger = logging.getLogger(__name__)

_OTHERS: Final = 128
"""Open files that are no clients: the bus, the log, certificates, and room for connections that are being refused."""


def with_room(config: Config) -> Config:
    """Raise this process's limit to what its system allows, and return a configuration that keeps within it."""
    if sys.platform == "win32":
        return config  # It has no such limit.
    import resource  # noqa: PLC0415 - POSIX has it

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = config.max_connections + _OTHERS
    unlimited = resource.RLIM_INFINITY
    allowed = wanted if hard == unlimited else min(wanted, hard)
    if soft != unlimited and soft < allowed:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        except (OSError, ValueError):  # macOS allows less than it says.
            allowed = soft
    if allowed >= wanted:
        return config
    fewer = max(1, allowed - _OTHERS)
    logger.warning(
        "%d open files are allowed: at most %d connections are served at once, not %d. Raise the limit (ulimit -n), or "
        "choose a lower max_connections",
        allowed,
        fewer,
        config.max_connections,
    )
    return dataclasses.replace(config, max_connections=fewer)
