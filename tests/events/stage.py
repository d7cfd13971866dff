"""The contract ``stage.proto``, compiled as a project would do it, and servicers that do what a test says."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from google.protobuf import empty_pb2

STAGE = Path(__file__).with_name("stage.proto")

Act = Callable[[Sequence[Any], Any], Awaitable[None]]


class Stage:
    """The generated code, once ``use`` was called."""

    def use(self, code: Path) -> None:
        """Import the code that ``compile_contract`` wrote."""
        sys.path.insert(0, str(code))
        self.pb: Any = importlib.import_module("stage.v1.stage_pb2")
        self.grpc: Any = importlib.import_module("stage.v1.stage_pb2_grpc")

    def placed(self, name: object, text: str = "") -> Any:
        return self.pb.Placed(id=str(name), text=text)

    def moved(self, account: str, number: int) -> Any:
        return self.pb.Moved(account=account, number=number)

    def subscriber(self, service: str, act: Act | None = None) -> Subscriber:
        """Return a servicer of a service that notes what it gets, then does ``act``, then notes what it has done."""
        return Subscriber(self, service, act)


class Subscriber:
    """One servicer, and what it has seen."""

    def __init__(self, stage: Stage, service: str, act: Act | None) -> None:
        self.got: list[list[Any]] = []
        """The events of each call, as it began."""
        self.done: list[Any] = []
        """The events of all calls that ended well."""
        self.attempts: list[list[int]] = []
        """The attempts of the deliveries of each call."""
        self.running = self.most = 0

        async def handle(events: Sequence[Any], context: Any) -> Any:
            assert len(context.deliveries) == len(events)
            self.got.append(list(events))
            self.attempts.append([delivery.attempt for delivery in context.deliveries])
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                if act is not None:
                    await act(events, context)
            finally:
                self.running -= 1
            self.done += events
            return empty_pb2.Empty()

        async def one(_self: Any, event: Any, context: Any) -> Any:
            return await handle([event], context)

        async def many(_self: Any, events: Any, context: Any) -> Any:
            return await handle([event async for event in events], context)

        base = getattr(stage.grpc, f"{service}Servicer")
        methods = {"OnPlaced": one, "OnMoved": one, "StorePlaced": many}
        own = {name: method for name, method in methods.items() if hasattr(base, name)}
        self.servicer: Any = type(service, (base,), own)()
        self._add = getattr(stage.grpc, f"add_{service}Servicer_to_server")

    def add_to(self, server: Any) -> None:
        self._add(self.servicer, server)

    @property
    def ids(self) -> list[str]:
        """The ids of the events that were handled well."""
        return [event.id for event in self.done]


stage = Stage()
