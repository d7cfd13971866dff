"""The server's edge: turns the method handlers that generated code registers into ``Handler``s.

Here, and nowhere else on the server's side, bytes become messages and a servicer's exceptions become statuses.
"""

from rpc.dispatch.interceptors import HandlerCallDetails, first_match, intercepted
from rpc.dispatch.method import method_handler

__all__ = ["HandlerCallDetails", "first_match", "intercepted", "method_handler"]
