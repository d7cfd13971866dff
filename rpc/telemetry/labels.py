"""How the numbers of ``rpc.stats`` are called and labelled: the same for OTLP and for Prometheus."""

from __future__ import annotations

from typing import Final

from rpc.stats import Kind, code_name
from rpc.telemetry import semconv

NAMES: Final[dict[Kind, str]] = {
    "server": semconv.RPC_SERVER_CALL_DURATION,
    "client": semconv.RPC_CLIENT_CALL_DURATION,
    "http": semconv.HTTP_SERVER_REQUEST_DURATION,
    "process": semconv.MESSAGING_PROCESS_DURATION,
    "queue": semconv.QUEUE_DURATION,
}

DESCRIPTIONS: Final[dict[Kind, str]] = {
    "server": "Measures the duration of an incoming Remote Procedure Call (RPC).",
    "client": "Measures the duration of an outgoing Remote Procedure Call (RPC).",
    "http": "Duration of HTTP server requests.",
    "process": "Duration of processing operation.",
    "queue": "Time from when the broker took a job or event until its handler began for the first time.",
}


def attributes(kind: Kind, labels: tuple[str, ...], code: int) -> dict[str, str | int]:
    """Return the attributes of the calls of one method, or requests of one route, that ended with ``code``."""
    if kind == "http":
        return _http(labels, code)
    if kind in {"process", "queue"}:
        return _messaging(labels, code)
    name = code_name(code)
    result: dict[str, str | int] = {
        semconv.RPC_SYSTEM_NAME: semconv.GRPC,
        semconv.RPC_METHOD: labels[0],
        semconv.RPC_RESPONSE_STATUS_CODE: name,
    }
    if name in semconv.SERVER_ERRORS if kind == "server" else name != "OK":
        result[semconv.ERROR_TYPE] = name
    return result


def _messaging(labels: tuple[str, ...], code: int) -> dict[str, str | int]:
    destination, group = labels
    result: dict[str, str | int] = {
        semconv.MESSAGING_SYSTEM: semconv.NATS,
        semconv.MESSAGING_DESTINATION_NAME: destination,
        semconv.MESSAGING_CONSUMER_GROUP_NAME: group,
        semconv.MESSAGING_OPERATION_NAME: semconv.PROCESS,
    }
    if code != 0:
        result[semconv.ERROR_TYPE] = code_name(code)
    return result


def _http(labels: tuple[str, ...], code: int) -> dict[str, str | int]:
    method, route, scheme = labels
    result: dict[str, str | int] = {
        semconv.HTTP_REQUEST_METHOD: method if method in semconv.HTTP_METHODS else semconv.OTHER,
        semconv.URL_SCHEME: scheme,
        semconv.HTTP_RESPONSE_STATUS_CODE: code,
    }
    if route:
        result[semconv.HTTP_ROUTE] = route
    if semconv.http_failed(code):
        result[semconv.ERROR_TYPE] = str(code)
    return result
