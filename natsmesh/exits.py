"""Exit codes, and the error that carries one to the end of the command. They are promises: see ``docs/cli.md``."""

from __future__ import annotations

import enum
import signal


class Exit(enum.IntEnum):
    """What the command's exit code says. A call that ends with gRPC status N gives 64 + N, as grpcurl does."""

    OK = 0
    FAILED = 1
    """Something else went wrong; for servers also: the grace was over and calls were cut off."""
    USAGE = 2
    """The command line, the project or a service is wrong: the same command will fail again."""
    UNREACHABLE = 3
    """No broker answers where we looked for one."""
    PORT_TAKEN = 4
    NOT_FOUND = 5
    """The mesh has no such service or method."""
    STATUS = 64
    """The base for gRPC status codes."""
    SIGNAL = 128
    """The base for signals: 130 is Ctrl-C."""


class Failure(Exception):  # noqa: N818 - it is how a command ends, as often a finding as an error
    """Ends the command with a message for people and an exit code for programs."""

    def __init__(self, message: str, code: int = Exit.FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.code = int(code)


def describe_exit(code: int) -> str:
    """Say how a process ended, given its return code as ``subprocess`` reports it."""
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        return f"ended by signal {-code}"
    hint = " (out of memory?)" if name == "SIGKILL" else ""
    return f"ended by {name}{hint}"
