"""natsmesh's gateway: HTTP in front of the services of a mesh.

``Gateway`` is the ASGI application, ``application`` puts what concerns all paths around it, ``run`` serves both,
``Config`` has the options of all. Each name is imported when it is used first: whoever only wants the rules of
``google.api.http`` does not wait for a web server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.app import Gateway
    from gateway.config import Config, ConfigError
    from gateway.filters import application
    from gateway.server import run
else:
    import importlib

    _MODULES = {
        "Config": "gateway.config",
        "ConfigError": "gateway.config",
        "Gateway": "gateway.app",
        "application": "gateway.filters",
        "run": "gateway.server",
    }

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module 'gateway' has no attribute {name!r}")
        value = getattr(importlib.import_module(_MODULES[name]), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__all__ = ["Config", "ConfigError", "Gateway", "application", "run"]
