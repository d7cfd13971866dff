"""Names of OpenTelemetry's semantic conventions: the only place where they are written down.

RPC as of semantic conventions 1.38 and later (release candidate, then stable), with ``rpc.system.name`` = ``grpc``:
what travels are gRPC calls, whatever carries them. HTTP as of 1.23 and later (stable). What the conventions have no
name for is under ``natsmesh.``. Tests compare these with the ``opentelemetry-semantic-conventions`` package.
"""

from __future__ import annotations

from typing import Final

SCOPE: Final = "natsmesh"
"""Instrumentation scope of all spans and metrics."""

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.40.0"

# RPC
RPC_SYSTEM_NAME: Final = "rpc.system.name"
RPC_METHOD: Final = "rpc.method"
RPC_METHOD_ORIGINAL: Final = "rpc.method_original"
RPC_RESPONSE_STATUS_CODE: Final = "rpc.response.status_code"
GRPC: Final = "grpc"

# General
ERROR_TYPE: Final = "error.type"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
CLIENT_ADDRESS: Final = "client.address"
NETWORK_PEER_ADDRESS: Final = "network.peer.address"
NETWORK_PEER_PORT: Final = "network.peer.port"
NETWORK_PROTOCOL_VERSION: Final = "network.protocol.version"
OTHER: Final = "_OTHER"

# Messaging, for jobs and events
MESSAGING_SYSTEM: Final = "messaging.system"
MESSAGING_DESTINATION_NAME: Final = "messaging.destination.name"
MESSAGING_OPERATION_NAME: Final = "messaging.operation.name"
MESSAGING_OPERATION_TYPE: Final = "messaging.operation.type"
MESSAGING_MESSAGE_ID: Final = "messaging.message.id"
MESSAGING_CONSUMER_GROUP_NAME: Final = "messaging.consumer.group.name"
MESSAGING_BATCH_MESSAGE_COUNT: Final = "messaging.batch.message_count"
NATS: Final = "nats"
"""No registered ``messaging.system``, but what others call it."""
SEND: Final = "send"
PROCESS: Final = "process"

# HTTP
HTTP_REQUEST_METHOD: Final = "http.request.method"
HTTP_REQUEST_METHOD_ORIGINAL: Final = "http.request.method_original"
HTTP_RESPONSE_STATUS_CODE: Final = "http.response.status_code"
HTTP_ROUTE: Final = "http.route"
URL_PATH: Final = "url.path"
URL_SCHEME: Final = "url.scheme"
USER_AGENT_ORIGINAL: Final = "user_agent.original"

# Resource
SERVICE_NAME: Final = "service.name"
SERVICE_INSTANCE_ID: Final = "service.instance.id"
SERVICE_VERSION: Final = "service.version"

# Metrics: histograms, in seconds
RPC_SERVER_CALL_DURATION: Final = "rpc.server.call.duration"
RPC_CLIENT_CALL_DURATION: Final = "rpc.client.call.duration"
HTTP_SERVER_REQUEST_DURATION: Final = "http.server.request.duration"
MESSAGING_PROCESS_DURATION: Final = "messaging.process.duration"

# Our own
ATTEMPTS: Final = "natsmesh.attempts"
"""On a CLIENT span: how often the call was sent, when that was more than once."""
ATTEMPT_FAILED: Final = "natsmesh.attempt.failed"
"""Event on a CLIENT span: one sending failed and the call is sent again."""
ATTEMPT: Final = "natsmesh.attempt"
"""On a CONSUMER span: which attempt it is, from 1. On that event: which sending it was, from 1."""
RETRY_DELAY: Final = "natsmesh.retry.delay"
"""On that event: seconds until the next one."""
QUEUE_DURATION: Final = "natsmesh.queue.duration"
"""Seconds from when the broker took a job or event (of a batch: the first of them) until its handler began.

An attribute of CONSUMER spans, and a metric.
"""
REFUSAL_REASON: Final = "natsmesh.refusal.reason"
"""Why a call was refused before any handler saw it (``rpc.Refusal.reason``)."""

HTTP_METHODS: Final = frozenset(
    ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"),
)
"""Request methods known to the conventions; all others are ``_OTHER``."""

SERVER_ERRORS: Final = frozenset(
    ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"),
)
"""Status codes that are the server's failure. On the client's side all but OK are errors.

Source: semantic conventions for gRPC, server span, ``rpc.response.status_code``.
"""


def http_failed(status: int) -> bool:
    """Return whether a response means a failed request on the server's side.

    The conventions say 500 and above, and requests that were cancelled: 499 stands for a client that went away.
    """
    return status >= 500 or status == 499
