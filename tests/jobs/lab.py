"""The contract ``lab.proto``, compiled as a project would do it, and servicers that do what a test says."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from google.protobuf import empty_pb2

LAB = Path(__file__).with_name("lab.proto")

Act = Callable[[Any, Any], Awaitable[Any]]


class Lab:
    """The generated code, once ``use`` was called."""

    def use(self, folder: Path) -> None:
        """Import the code that ``compile_contract`` wrote."""
        sys.path.insert(0, str(folder / "gen"))
        self.pb: Any = importlib.import_module("lab.v1.lab_pb2")
        self.grpc: Any = importlib.import_module("lab.v1.lab_pb2_grpc")

    @staticmethod
    def empty() -> Any:
        return empty_pb2.Empty()

    def request(self, what: str, **values: Any) -> Any:
        return self.pb.WorkRequest(what=what, **values)

    def worker(self, **acts: Act) -> Any:
        """Return a servicer of ``Lab``: each act does the requests of its name; others are done at once.

        ``attempts`` has (what, attempt, job id) of each call.
        """
        pb = self.pb

        class Worker(self.grpc.LabServicer):
            def __init__(self) -> None:
                self.attempts: list[tuple[str, int, str]] = []
                self.running = self.most = 0

            async def Work(self, request: Any, context: Any) -> Any:
                self.attempts.append((request.what, context.attempt, context.job_id))
                self.running += 1
                self.most = max(self.most, self.running)
                try:
                    act = acts.get(request.what)
                    result = None if act is None else await act(request, context)
                finally:
                    self.running -= 1
                return pb.WorkResponse(done=request.what, attempt=context.attempt) if result is None else result

            Many = Hasty = Work

            async def Price(self, request: Any, context: Any) -> Any:
                return pb.WorkResponse(done=request.what)

        return Worker()


lab = Lab()
