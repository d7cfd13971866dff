"""One line per request, for those who want it: it costs more than a call's other bookkeeping, so it is off by
default.
"""

from __future__ import annotations

import json
import logging
from typing import Any

logger = logging.getLogger("gateway.access")


class AccessLog:
    """Writes JSON lines: ``{"method", "path", "status", "ms", "client", "request_id", "http"}``."""

    def write(self, scope: dict[str, Any], status: int, seconds: float, request_id: bytes) -> None:
        """Log one request. The query string is left out: it may hold what is nobody's business."""
        client = scope.get("client")
        line = {
            "method": scope["method"],
            "path": (scope.get("raw_path") or scope["path"].encode()).decode("latin-1"),
            "status": status,
            "ms": round(seconds * 1000, 3),
            "client": client[0] if client else "",
            "request_id": request_id.decode("latin-1"),
            "http": scope.get("http_version", ""),
        }
        logger.info("%s", json.dumps(line))
