"""Requests to try: example JSON for a message, and the curl command that calls a method through the gateway."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlencode

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

from natsmesh.schema import Route, Schema
from rpc.durable.options import OptionsError, subscription_of

MAX_DEPTH = 4
"""Messages nested deeper are left out: an example shows the shape, and a recursive message has no end."""

HTTP_BODY = "google.api.HttpBody"

# Names that say what a good value would be; anything else gets a value of its type.
_LIKELY: dict[str, Any] = {
    "name": "Ada",
    "display_name": "Ada",
    "width": 256,
    "height": 256,
    "page_size": 10,
    "email": "ada@example.com",
    "request_id": "6f9b2c1e-7d1a-4c7e-9a55-0d1f7c1f3b42",  # AIP-155: a UUID
}

_WELL_KNOWN: dict[str, Any] = {
    "google.protobuf.Timestamp": "2026-01-31T12:00:00Z",
    "google.protobuf.Duration": "1.5s",
    "google.protobuf.FieldMask": "name",
    "google.protobuf.Empty": {},
    "google.protobuf.Struct": {"key": "value"},
    "google.protobuf.Value": "value",
    "google.protobuf.ListValue": ["value"],
    "google.protobuf.Any": {},  # what may stand in it, no descriptor says
    HTTP_BODY: {"contentType": "text/plain", "data": "aGVsbG8="},
}
_WRAPPER = re.compile(r"google\.protobuf\.(Double|Float|U?Int32|U?Int64|Bool|String|Bytes)Value\Z")
_VARIABLE = re.compile(r"\{([^=}]+)(?:=([^}]*))?\}")

_BYTES = "aGVsbG8="
_64_BIT = {
    FieldDescriptor.TYPE_INT64,
    FieldDescriptor.TYPE_UINT64,
    FieldDescriptor.TYPE_SINT64,
    FieldDescriptor.TYPE_FIXED64,
    FieldDescriptor.TYPE_SFIXED64,
}


def example(message: Descriptor, depth: int = 0) -> Any:
    """Return an example of a message in its JSON form (a value that ``json`` can write)."""
    if message.full_name in _WELL_KNOWN:
        return _WELL_KNOWN[message.full_name]
    if _WRAPPER.match(message.full_name):
        return _single(message.fields_by_name["value"], depth)
    result: dict[str, Any] = {}
    chosen = set()
    for field in message.fields:
        if (oneof := field.containing_oneof) is not None and len(oneof.fields) > 1:
            if oneof.name in chosen:
                continue
            chosen.add(oneof.name)
        if (value := _value(field, depth)) is not None:
            result[field.json_name] = value
    return result


def curl(schema: Schema, method: MethodDescriptor, base: str) -> str | None:
    """Return a curl command that calls a method through a gateway.

    None for streams, which curl cannot fill, and for handlers of events, which are not called over HTTP. ``base`` is
    the gateway's address as curl takes it: ``localhost:8080``.
    """
    if method.client_streaming or method.server_streaming or _handles_events(method):
        return None
    routes = schema.routes(method)
    if routes:
        return _curl_route(routes[0], method, base)
    body = json.dumps(example(method.input_type), ensure_ascii=False)
    return _command("POST", f"{base}/{method.containing_service.full_name}/{method.name}", _json(body), method)


def _handles_events(method: MethodDescriptor) -> bool:
    try:
        return subscription_of(method) is not None
    except OptionsError:  # of a version that we do not know
        return False


def _curl_route(route: Route, method: MethodDescriptor, base: str) -> str:
    request = method.input_type
    values = example(request)
    used: set[str] = {variable.partition(".")[0] for variable, _ in _VARIABLE.findall(route.template)}
    path = _VARIABLE.sub(lambda match: _fill(request, match[1].strip(), match[2]), route.template)
    data: list[str] = []
    if route.body == "*":
        left = {field.json_name: values[field.json_name] for field in _set(request, values) if field.name not in used}
        data = _json(json.dumps(left, ensure_ascii=False))
    elif route.body:
        used.add(route.body)
        data = _body(request.fields_by_name.get(route.body), values)
    query: list[tuple[str, str]] = []
    if route.body != "*":
        for field in _set(request, values):
            if field.name not in used and not _is_optional(field):
                query += _query(field.json_name, values[field.json_name])
    return _command(route.verb, f"{base}{path}{'?' + urlencode(query) if query else ''}", data, method)


def _command(verb: str, url: str, data: list[str], method: MethodDescriptor) -> str:
    implied = "POST" if data else "GET"
    words = ["curl", *(["-X", verb] if verb != implied else []), *data, url]
    if method.output_type.full_name == HTTP_BODY:
        words += ["-o", "out.jpg" if "@photo.jpg" in data else "out"]
    return " ".join(_quote(word) for word in words)


def _body(field: FieldDescriptor | None, values: dict[str, Any]) -> list[str]:
    if field is None:
        return []
    if field.message_type is not None and field.message_type.full_name == HTTP_BODY and not field.is_repeated:
        if field.name in {"image", "photo", "picture"}:
            return ["--data-binary", "@photo.jpg", "-H", "content-type: image/jpeg"]
        return ["--data-binary", "@file", "-H", "content-type: application/octet-stream"]
    return _json(json.dumps(values.get(field.json_name), ensure_ascii=False))


def _json(text: str) -> list[str]:
    return ["-d", text, "-H", "content-type: application/json"]


def _set(message: Descriptor, values: dict[str, Any]) -> list[FieldDescriptor]:
    return [field for field in message.fields if field.json_name in values]


def _is_optional(field: FieldDescriptor) -> bool:
    return field.has_presence and field.message_type is None


def _fill(message: Descriptor, variable: str, pattern: str | None) -> str:
    """Return a value for a variable of a path that fits its pattern (``shelves/*/books/**``)."""
    field: FieldDescriptor | None = None
    for part in variable.split("."):
        field = message.fields_by_name.get(part) if field is None or field.message_type is None else (
            field.message_type.fields_by_name.get(part)
        )  # fmt: skip
    value = _single(field, 0) if field is not None else variable
    text = value if isinstance(value, str) else json.dumps(value)
    if pattern and pattern not in {"*", "**"}:
        return re.sub(r"\*\*?", quote(text, safe=""), pattern)
    return quote(text, safe="")


def _query(name: str, value: Any) -> list[tuple[str, str]]:
    match value:
        case dict():
            return [pair for key, inner in value.items() for pair in _query(f"{name}.{key}", inner)]
        case list():
            return [pair for inner in value for pair in _query(name, inner)]
        case bool():
            return [(name, json.dumps(value))]
        case _:
            return [(name, str(value))]


def _value(field: FieldDescriptor, depth: int) -> Any:
    if not field.is_repeated:
        return _single(field, depth)
    entry = field.message_type
    if entry is not None and entry.GetOptions().map_entry:
        key = _single(entry.fields_by_name["key"], depth)
        value = _single(entry.fields_by_name["value"], depth)
        return None if value is None else {key if isinstance(key, str) else json.dumps(key): value}
    value = _single(field, depth)
    return None if value is None else [value]


def _single(field: FieldDescriptor, depth: int) -> Any:
    """Return an example for one value of a field; None where it is nested too deep."""
    if field.message_type is not None:
        return example(field.message_type, depth + 1) if depth < MAX_DEPTH else None
    if field.enum_type is not None:
        values = field.enum_type.values
        return next((value.name for value in values if value.number), values[0].name)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _BYTES
    value = _LIKELY.get(field.name)
    default = _TYPES.get(field.cpp_type, _one)(field)
    if value is not None and isinstance(value, type(default)):
        return value
    return str(default) if field.type in _64_BIT else default


def _one(_: FieldDescriptor) -> Any:
    return 1


_TYPES: dict[int, Callable[[FieldDescriptor], Any]] = {
    FieldDescriptor.CPPTYPE_STRING: lambda field: _singular(field.name) if field.is_repeated else field.name,
    FieldDescriptor.CPPTYPE_BOOL: lambda _: True,
    FieldDescriptor.CPPTYPE_DOUBLE: lambda _: 1.5,
    FieldDescriptor.CPPTYPE_FLOAT: lambda _: 1.5,
}


def _singular(name: str) -> str:
    return name[:-1] if name.endswith("s") and len(name) > 2 else name


def _quote(word: str) -> str:
    # A word that needs no quotes gets none; JSON gets single ones, which read best.
    return word if re.fullmatch(r"[\w@%+=:,./-]+", word) else shlex.quote(word)
