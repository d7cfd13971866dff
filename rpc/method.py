"""What is known of a method before it is called: its names, its kind, its promises.

A ``MethodInfo`` is built once, when a stub, a servicer or a route is built, and shared by all calls of that method.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rpc.durable.marks import may_be_durable

if TYPE_CHECKING:
    from google.protobuf.descriptor import MethodDescriptor

    from rpc.durable.options import JobOptions, SubscriptionOptions


OPERATIONS = "google.longrunning.Operations"
"""The service by which jobs are asked about: every channel answers it."""


class IdempotencyLevel(enum.Enum):
    """``google.protobuf.MethodOptions.IdempotencyLevel``: what repeating a call does."""

    UNKNOWN = 0
    """Nothing is promised: a call that may have started is never sent twice."""

    NO_SIDE_EFFECTS = 1
    """Safe in the sense of RFC 9110, section 9.2.1: may be repeated, cached, sent as HTTP GET."""

    IDEMPOTENT = 2
    """Idempotent in the sense of RFC 9110, section 9.2.2: may be repeated."""


@dataclass(frozen=True, slots=True)
class MethodInfo:
    """Identity and kind of one RPC method.

    ``service`` is the full service name (``greeter.v1.Greeter``), ``name`` the method's (``SayHello``).
    """

    service: str
    name: str
    client_streaming: bool = False
    server_streaming: bool = False
    idempotency: IdempotencyLevel = IdempotencyLevel.UNKNOWN
    job: JobOptions | None = field(default=None, compare=False)
    """What is said of a durable job; None for every other method."""
    subscription: SubscriptionOptions | None = field(default=None, compare=False)
    """What is said of a method that handles events; None for every other method."""
    full_name: str = field(init=False, compare=False)
    """``pkg.Service/Method``: the form that telemetry and people use."""
    path: str = field(init=False, compare=False)
    """``/pkg.Service/Method``: the form of gRPC's ``:path``."""
    is_on_jetstream: bool = field(init=False, compare=False)
    """True when the caller's side itself answers it, by JetStream: jobs, and what is asked about them."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_on_jetstream", self.job is not None or self.service == OPERATIONS)
        object.__setattr__(self, "full_name", f"{self.service}/{self.name}")
        object.__setattr__(self, "path", f"/{self.service}/{self.name}")

    @property
    def is_unary(self) -> bool:
        """True when one request gives one response."""
        return not (self.client_streaming or self.server_streaming)

    @classmethod
    def from_path(cls, path: str, *, client_streaming: bool = False, server_streaming: bool = False) -> MethodInfo:
        """Build from gRPC's path, ``/pkg.Service/Method`` (the leading slash may be absent).

        Raises ``ValueError`` when the path does not have that form.
        """
        service, separator, name = path.removeprefix("/").rpartition("/")
        if not separator or not service or not name or "/" in service:
            msg = f"not a method path: {path!r} (expected '/package.Service/Method')"
            raise ValueError(msg)
        return cls(service, name, client_streaming=client_streaming, server_streaming=server_streaming)

    @classmethod
    def from_descriptor(cls, method: MethodDescriptor) -> MethodInfo:
        """Build from a protobuf descriptor, with what the ``.proto`` declares.

        Raises ``rpc.durable.options.OptionsError`` (a ``ValueError``) when it declares a job or a subscription wrongly.
        """
        options = method.GetOptions()
        job = subscription = None
        if may_be_durable(method, options):
            from rpc.durable.options import options_of  # noqa: PLC0415 - most processes have neither jobs nor events

            job, subscription = options_of(method)
        return cls(
            method.containing_service.full_name,
            method.name,
            client_streaming=method.client_streaming,
            server_streaming=method.server_streaming,
            idempotency=IdempotencyLevel(options.idempotency_level),
            job=job,
            subscription=subscription,
        )
