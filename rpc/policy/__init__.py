"""Policies: one concern a file, each an ``Interceptor``; the order they stack in is written here and nowhere else.

The outermost comes first. A policy that is switched off is left out when the stack is built, so it costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rpc.call import Handler, Interceptor, compose
from rpc.policy.deadline import Deadlines
from rpc.policy.retry import Retry

if TYPE_CHECKING:
    from rpc.policy.limits import ConcurrencyLimit


def client_stack(
    transport: Handler,
    *,
    measure: Interceptor | None,
    trace: Interceptor | None,
    deadlines: Deadlines,
    retry: Retry | None,
) -> Handler:
    """What a call passes on the caller's side, around the transport."""
    layers: list[Interceptor | None] = [
        measure,  # outside of everything: the duration that the application waits
        trace,  # one CLIENT span a call, whatever happens inside
        deadlines,  # bounds all attempts together
        retry,  # inside the deadline, so that it never sleeps past it; each attempt is one pass through the transport
    ]
    return compose([layer for layer in layers if layer is not None], transport)


def server_stack(
    dispatch: Handler,
    *,
    measure: Interceptor | None,
    trace: Interceptor | None,
    deadlines: Deadlines,
    limit: ConcurrencyLimit | None,
    compress: Interceptor | None = None,
) -> Handler:
    """What a call passes on the back-end's side, around the servicer's method."""
    layers: list[Interceptor | None] = [
        limit,  # first: a refused call must cost nothing, is no call of this back-end, and is not counted as one
        measure,  # the time in the queue belongs to the caller's duration, not to the method's
        trace,  # one SERVER span for each call that is run
        deadlines,  # last before the handler starts: what expired in the queue is refused, not run
        compress,  # a default, which the handler may overrule
    ]
    return compose([layer for layer in layers if layer is not None], dispatch)
