"""natsmesh's gateway: HTTP in front of the services of a mesh.

``Gateway`` is the ASGI application, ``application`` puts what concerns all paths around it, ``run`` serves both,
``Config`` has the options of all.
"""

from __future__ import annotations

from gateway.app import Gateway
from gateway.config import Config, ConfigError
from gateway.filters import application
from gateway.server import run

__all__ = ["Config", "ConfigError", "Gateway", "application", "run"]
