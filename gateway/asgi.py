"""What an application and its server hand each other. Source: the ASGI specification."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

Message = dict[str, Any]
"""An event, with its ``type``."""

Scope = dict[str, Any]
"""A connection or a request."""

Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]
