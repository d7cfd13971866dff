"""The line between a supervisor and a process that it started: a socket pair, the child's end in its standard input.

The child tells when it is ready and which files it has loaded; and when the supervisor is gone, however it went, the
child sees the line close and ends too. One JSON object a line.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import sysconfig
import threading
import time
from typing import Any, Self

VARIABLE = "NATSMESH_CONTROL"
"""Set to ``stdin`` in the environment of a process whose standard input is such a line."""

_ORPHAN_SECONDS = 5.0


class Control:
    """The child's end. It reads in a thread, so that it works whatever the event loop or an import is busy with."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._lock = threading.Lock()
        self.grace = 0.0
        """Seconds that the process may take to end once its supervisor is gone."""
        threading.Thread(target=self._read, name="natsmesh-control", daemon=True).start()

    @classmethod
    def inherit(cls) -> Self | None:
        """Take the line over if the process was started with one; standard input is empty from then on."""
        if os.environ.pop(VARIABLE, None) != "stdin":
            return None
        line = socket.socket(fileno=os.dup(0))
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        return cls(line)

    def ready(self, **facts: Any) -> None:
        """Tell the supervisor that this process does its work now."""
        self._send({"event": "ready", **facts})

    def _send(self, event: dict[str, Any]) -> None:
        # A supervisor that is gone is the reader's business.
        with self._lock, contextlib.suppress(OSError):
            self._line.sendall(json.dumps(event).encode() + b"\n")

    def _read(self) -> None:
        with contextlib.suppress(OSError), self._line.makefile("rb") as lines:
            for line in lines:
                if line.strip() == b"files":
                    self._send({"event": "files", "files": loaded_files()})
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(self.grace + _ORPHAN_SECONDS)
        os._exit(1)


def loaded_files() -> list[str]:
    """Return the source files of all modules that this process has imported from outside the installed packages."""
    library = sysconfig.get_path("stdlib")
    files = set()
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and "site-packages" not in file and not file.startswith(library):
            files.add(file)
    return sorted(files)
