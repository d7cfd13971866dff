"""natsmesh: gRPC services without addresses, over NATS.

``Server`` takes what grpcio-tools generates and serves it over NATS; ``Channel`` serves the generated stubs. Everything
that a user, a service or a gateway needs is named here; the modules below are the library's own affair.

Each name is imported when it is used first: who starts a broker (``rpc.embedded``), runs pytest with the plugin of
``rpc.testing``, or asks the command for its help, does not wait for grpc. (So no module here may bear a facade's name:
importing it would put the module in the name's place.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rpc import telemetry
    from rpc._version import __version__
    from rpc.call import Call, Handler, Interceptor
    from rpc.channel import Channel
    from rpc.client_calls.opened import OpenCall
    from rpc.connections import connect
    from rpc.deadline import parse_timeout
    from rpc.discovery.query import discover, fetch_schema
    from rpc.discovery.watcher import ServiceView, ServiceWatcher
    from rpc.durable.context import Delivery, EventContext, JobContext
    from rpc.durable.reading import OptionsError
    from rpc.events.publisher import Publisher
    from rpc.jetstream.specs import MigrationError, StreamError
    from rpc.jobs.metrics import QueueMetrics
    from rpc.logs.handler import LogHandler
    from rpc.metadata import Metadata
    from rpc.metadata import normalize as normalize_metadata
    from rpc.method import IdempotencyLevel, MethodInfo
    from rpc.scope import current_connection, publish
    from rpc.server import Server
    from rpc.stats import Stats
    from rpc.status import Refusal, StatusCode, StatusError
    from rpc.transport.base import Connection
    from rpc.transport.jetstream import KeyValue, KeyValueEntry
    from rpc.transport.jetstream_bucket import RevisionError
    from rpc.transport.jetstream_objects import Blob, BlobInfo, BlobReader, DataLossError, ObjectStore
else:
    import importlib

    _MODULES = {
        "Blob": "rpc.transport.jetstream_objects",
        "BlobInfo": "rpc.transport.jetstream_objects",
        "BlobReader": "rpc.transport.jetstream_objects",
        "Call": "rpc.call",
        "Channel": "rpc.channel",
        "Connection": "rpc.transport.base",
        "DataLossError": "rpc.transport.jetstream_objects",
        "Delivery": "rpc.durable.context",
        "EventContext": "rpc.durable.context",
        "Handler": "rpc.call",
        "IdempotencyLevel": "rpc.method",
        "Interceptor": "rpc.call",
        "JobContext": "rpc.durable.context",
        "KeyValue": "rpc.transport.jetstream",
        "KeyValueEntry": "rpc.transport.jetstream",
        "LogHandler": "rpc.logs.handler",
        "Metadata": "rpc.metadata",
        "MethodInfo": "rpc.method",
        "MigrationError": "rpc.jetstream.specs",
        "ObjectStore": "rpc.transport.jetstream_objects",
        "OpenCall": "rpc.client_calls.opened",
        "OptionsError": "rpc.durable.reading",
        "Publisher": "rpc.events.publisher",
        "QueueMetrics": "rpc.jobs.metrics",
        "Refusal": "rpc.status",
        "RevisionError": "rpc.transport.jetstream_bucket",
        "Server": "rpc.server",
        "ServiceView": "rpc.discovery.watcher",
        "ServiceWatcher": "rpc.discovery.watcher",
        "Stats": "rpc.stats",
        "StatusCode": "rpc.status",
        "StatusError": "rpc.status",
        "__version__": "rpc._version",
        "StreamError": "rpc.jetstream.specs",
        "connect": "rpc.connections",
        "current_connection": "rpc.scope",
        "discover": "rpc.discovery.query",
        "fetch_schema": "rpc.discovery.query",
        "normalize_metadata": "rpc.metadata",
        "parse_timeout": "rpc.deadline",
        "publish": "rpc.scope",
    }

    def __getattr__(name: str) -> object:
        if name == "telemetry":
            value = importlib.import_module("rpc.telemetry")
        elif name in _MODULES:
            attribute = "normalize" if name == "normalize_metadata" else name
            value = getattr(importlib.import_module(_MODULES[name]), attribute)
        else:
            raise AttributeError(f"module 'rpc' has no attribute {name!r}")
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__all__ = [
    "Blob",
    "BlobInfo",
    "BlobReader",
    "Call",
    "Channel",
    "Connection",
    "DataLossError",
    "Delivery",
    "EventContext",
    "Handler",
    "IdempotencyLevel",
    "Interceptor",
    "JobContext",
    "KeyValue",
    "KeyValueEntry",
    "LogHandler",
    "Metadata",
    "MethodInfo",
    "MigrationError",
    "ObjectStore",
    "OpenCall",
    "OptionsError",
    "Publisher",
    "QueueMetrics",
    "Refusal",
    "RevisionError",
    "Server",
    "ServiceView",
    "ServiceWatcher",
    "Stats",
    "StatusCode",
    "StatusError",
    "StreamError",
    "__version__",
    "connect",
    "current_connection",
    "discover",
    "fetch_schema",
    "normalize_metadata",
    "parse_timeout",
    "publish",
    "telemetry",
]
