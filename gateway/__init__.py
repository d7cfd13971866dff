"""natsmesh's gateway: HTTP in front of the services of a mesh.

``Gateway`` is the ASGI application, ``run`` serves it, ``Config`` has the options of both.
"""

from __future__ import annotations

from gateway.app import Gateway
from gateway.config import Config, ConfigError
from gateway.server import run

__all__ = ["Config", "ConfigError", "Gateway", "run"]
