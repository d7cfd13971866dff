"""The shape of a setup."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from benchmarks.processes import Program, Stage


class Setup(ABC):
    """A gateway that answers a JSON unary POST, and whatever answers behind it."""

    name: str
    """What `--peers` takes."""

    title: str
    """What the table says."""

    path: ClassVar[str] = "/greeter.v1.Greeter/SayHello"

    def missing(self) -> str | None:
        """Why this setup cannot run here, saying what to install; None when it can. May install its own packages."""
        return None

    @abstractmethod
    def start(self, stage: Stage) -> Program:
        """Starts the broker, the gateway on `stage.gateway_port` (waiting for each to listen), and the back-end last.

        Returns the back-end at once, not waiting for it: the caller measures how long it takes to be ready.
        """

    def expected(self, name: str) -> object:
        """The JSON that answers `{"name": name}`."""
        return {"message": f"Hello, {name}!"}

    def counters(self, stage: Stage) -> dict[str, float]:
        """Further numbers worth keeping, asked for before and after a window; they only grow."""
        return {}
