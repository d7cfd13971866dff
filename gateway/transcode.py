"""REST to protobuf and back, compiled per binding: all that can be decided when a route is built is decided then.

The order of binding is a matter of security: the body first, then the query, the path last. Whatever a client writes
into body or query, a path variable keeps the value that the path gave it, because the path is what others authorise
by.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final

from protobuf import (
    DescField,
    DescFieldValueMessage,
    DescMessage,
    Message,
    Registry,
    message_from_json_value,
    message_to_json_value,
)

from gateway.errors import BadRequest, HttpError
from gateway.fields import HTTP_BODY, FieldPathError, Setter, find_field, resolve, text_field
from gateway.form_reader import FormReader
from gateway.http_rule import WHOLE, Binding, RuleError
from gateway.json_codec import explain, json_decoder, parse_value
from gateway.multipart import is_form
from gateway.path_template import Variable
from gateway.query import QueryBinder
from gateway.schema import Method
from rpc import StatusCode

JSON: Final = b"application/json"

BodyReader = Callable[[bytes, str], Message]
"""Makes the request message of (body, content type)."""

Answer = tuple[bytes, bytes]
"""(content type, body) of a response."""

_OCTET_STREAM: Final = b"application/octet-stream"
_SHORT: Final = 16
"""Bytes of a body that may be ``null`` with some space around it."""

_JSON_TYPE = re.compile(r"(?:application|text)/(?:[\w.+-]+\+)?json\s*(?:;\s*charset=\"?utf-8\"?\s*)?", re.IGNORECASE)
# RFC 9110, "media-type", loosely: whatever can do no harm in a header.
_MEDIA_TYPE = re.compile(r"[\x21-\x7e]+/[\x20-\x7e]+")


class ResponseError(Exception):
    """A back-end's answer that does not fit its schema; the text is for clients."""


class RequestTranscoder:
    """Makes serialized requests of HTTP requests, for one binding."""

    __slots__ = ("_literals", "_query", "_read_body", "_variables", "has_body")

    def __init__(self, method: Method, binding: Binding, registry: Registry, *, ignore_unknown: bool) -> None:
        """Raises ``RuleError`` when the binding names fields that the request does not have."""
        descriptor = method.request.desc()
        self._variables = tuple(
            (variable, _variable_setter(descriptor, variable)) for variable in binding.template.variables
        )
        template = binding.template
        # A path that is literal is found without being split; its variables have what the template says.
        self._literals = [segment.encode() for segment in template.segments] if template.is_literal else []
        self.has_body = bool(binding.body)
        bound = [variable.field_path for variable in binding.template.variables]
        if not binding.body:
            self._read_body: BodyReader = _no_body(method.request)
        elif binding.body == WHOLE:
            self._read_body = _whole_body(method.request, registry, tuple(bound), ignore_unknown=ignore_unknown)
        else:
            field = find_field(descriptor, binding.body)
            if field is None:
                raise RuleError(f"body {binding.body!r} is not a field of {descriptor.type_name}")
            inside = tuple(path[1:] for path in bound if path[0] == field.name)
            bound.append((field.name,))
            self._read_body = _field_body(method.request, field, registry, inside, ignore_unknown=ignore_unknown)
        self._query = QueryBinder(
            descriptor, tuple(bound), whole_body=binding.body == WHOLE, ignore_unknown=ignore_unknown
        )

    def request(self, body: bytes, content_type: str, segments: list[bytes], query: bytes) -> bytes:
        """Return the serialized request. Raises ``HttpError``."""
        message = self._read_body(body, content_type)
        if query or self._variables:
            self.bind(message, segments, query)
        return message.to_binary()

    def bind(self, message: Message, segments: list[bytes], query: bytes) -> None:
        """Set what query and path say on a message that the body has made. Raises ``HttpError``."""
        if query:
            self._query.bind(message, query)
        for variable, setter in self._variables:
            try:
                setter(message, variable.value(segments or self._literals))
            except ValueError as error:
                reason = "the percent-escapes are not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
                raise BadRequest(f"path variable {variable.name!r}: {reason}", field=variable.name) from error


def response_transcoder(method: Method, binding: Binding, registry: Registry) -> Callable[[bytes], Answer]:
    """Return what makes an answer of a serialized response. It raises ``ResponseError``.

    Raises ``RuleError`` when the binding names a field that the response does not have.
    """
    descriptor = method.response.desc()
    if binding.response_body:
        field = find_field(descriptor, binding.response_body)
        if field is None:
            raise RuleError(f"response_body {binding.response_body!r} is not a field of {descriptor.type_name}")
        encode = _field_answer(method.response, field, registry)
    elif descriptor.type_name == HTTP_BODY:
        encode = _raw_answer(method.response)
    else:
        to_json = method.to_json

        def encode(data: bytes) -> Answer:
            return JSON, to_json(data)

    def answer(data: bytes) -> Answer:
        try:
            return encode(data)
        except Exception as error:
            raise ResponseError(f"the response does not fit {descriptor.type_name}: {_brief(error)}") from error

    return answer


def answers_raw(method: Method, binding: Binding) -> bool:
    """Tell whether the answer is the bytes of an ``HttpBody`` instead of JSON. The binding fits the method."""
    descriptor = method.response.desc()
    if binding.response_body:
        field = find_field(descriptor, binding.response_body)
        value = None if field is None else field.value
        return isinstance(value, DescFieldValueMessage) and value.message.type_name == HTTP_BODY
    return descriptor.type_name == HTTP_BODY


def takes_raw(method: Method, binding: Binding) -> bool:
    """Tell whether the body of a request is the bytes of an ``HttpBody`` instead of JSON."""
    descriptor = method.request.desc()
    if binding.body in ("", WHOLE):
        return bool(binding.body) and descriptor.type_name == HTTP_BODY
    field = find_field(descriptor, binding.body)
    value = None if field is None else field.value
    return isinstance(value, DescFieldValueMessage) and value.message.type_name == HTTP_BODY


def chunk_encoder(method: Method, binding: Binding) -> Callable[[bytes], bytes]:
    """Return what makes a serialized request that has nothing but bytes, for a binding that ``takes_raw``."""
    request = method.request
    body = None if binding.body == WHOLE else _field(request.desc(), binding.body)
    http_body = request if body is None else body.value.message.type  # type: ignore[union-attr]  # it takes raw
    data_field = _field(http_body.desc(), "data")

    def encode(data: bytes) -> bytes:
        message = chunk = http_body()
        chunk[data_field] = data
        if body is not None:
            message = request()
            message[body] = chunk
        return message.to_binary()

    return encode


def check_json(content_type: str) -> None:
    """Raise ``HttpError`` 415 when a body says that it is something else than JSON in UTF-8."""
    if content_type and not _JSON_TYPE.fullmatch(content_type):
        raise HttpError(
            StatusCode.INVALID_ARGUMENT,
            f"content-type {content_type[:100]!r} is not supported here: send the body as 'application/json'",
            status=415,
            headers=[(b"accept-post", JSON)],
        )


def _brief(error: Exception) -> str:
    text = str(error)
    return text if len(text) <= 200 else text[:200] + "..."


def _variable_setter(descriptor: DescMessage, variable: Variable) -> Setter:
    try:
        field = text_field(descriptor, variable.field_path)
    except FieldPathError as error:
        raise RuleError(f"path variable {variable.name!r}: {error}") from error
    if field.repeated:
        raise RuleError(f"path variable {variable.name!r} is a repeated field")
    return field.set


def _no_body(request: type[Message]) -> BodyReader:
    def read(_body: bytes, _content_type: str) -> Message:
        return request()

    return read


def _whole_body(
    request: type[Message], registry: Registry, in_path: tuple[tuple[str, ...], ...], *, ignore_unknown: bool
) -> BodyReader:
    if request.desc().type_name == HTTP_BODY:
        return _raw_body(request)
    decode = json_decoder(request, registry, ignore_unknown=ignore_unknown)
    read_form = FormReader(request, registry, in_path, ignore_unknown=ignore_unknown)

    def read(body: bytes, content_type: str) -> Message:
        if content_type != "application/json" and body:
            if is_form(content_type):
                return read_form(body, content_type)
            check_json(content_type)
        return decode(body)

    return read


def _field_body(
    request: type[Message],
    field: DescField,
    registry: Registry,
    in_path: tuple[tuple[str, ...], ...],
    *,
    ignore_unknown: bool,
) -> BodyReader:
    if not isinstance(field.value, DescFieldValueMessage):
        return _value_body(request, field, registry, ignore_unknown=ignore_unknown)
    read_field = _whole_body(field.value.message.type, registry, in_path, ignore_unknown=ignore_unknown)
    null_is_absent = field.value.message.type_name not in {HTTP_BODY, "google.protobuf.Value"}

    def read(body: bytes, content_type: str) -> Message:
        message = request()
        if null_is_absent and len(body) < _SHORT and body.strip() == b"null":
            check_json(content_type)  # ProtoJSON: null is a field that is not there.
        else:
            message[field] = read_field(body, content_type)
        return message

    return read


def _value_body(request: type[Message], field: DescField, registry: Registry, *, ignore_unknown: bool) -> BodyReader:
    """Read the body as the value of a field that is no message: a scalar, an enum, a list, a map."""

    def read(body: bytes, content_type: str) -> Message:
        if not body:
            return request()
        check_json(content_type)
        value = parse_value(body)
        alone: dict[str, Any] = {field.json_name: value}
        try:
            message = message_from_json_value(request, alone, registry=registry, ignore_unknown_fields=ignore_unknown)
            message.to_binary()  # Numbers of enums are read whatever their size.
        except Exception as error:
            document = json.dumps(alone).encode()
            raise explain(error, document, request, registry, ignore_unknown=ignore_unknown) from error
        return message

    return read


def _raw_body(http_body: type[Message]) -> BodyReader:
    content_type_field, data_field = (_field(http_body.desc(), name) for name in ("content_type", "data"))

    def read(body: bytes, content_type: str) -> Message:
        message = http_body()
        message[content_type_field] = content_type
        message[data_field] = body
        return message

    return read


def _raw_answer(http_body: type[Message]) -> Callable[[bytes], Answer]:
    from_binary = http_body.from_binary
    content_type_field, data_field = (_field(http_body.desc(), name) for name in ("content_type", "data"))

    def answer(data: bytes) -> Answer:
        message = from_binary(data)
        return _raw(message[content_type_field], message[data_field])

    return answer


def _raw(content_type: str, data: bytes) -> Answer:
    if not content_type:
        return _OCTET_STREAM, data
    if not _MEDIA_TYPE.fullmatch(content_type):
        raise ValueError(f"the content type {content_type[:60]!r} is not one")
    return content_type.encode(), data


def _field_answer(response: type[Message], field: DescField, registry: Registry) -> Callable[[bytes], Answer]:
    """Answer one field of the response. An absent message is ``{}``, an absent value its default."""
    from_binary = response.from_binary
    if isinstance(field.value, DescFieldValueMessage):
        inner = field.value.message.type
        if inner.desc().type_name == HTTP_BODY:
            content_type_field, data_field = (_field(inner.desc(), name) for name in ("content_type", "data"))

            def raw(data: bytes) -> Answer:
                body = from_binary(data)[field] or inner()
                return _raw(body[content_type_field], body[data_field])

            return raw

        def message(data: bytes) -> Answer:
            value = from_binary(data)[field]
            return JSON, (inner() if value is None else value).to_json(registry=registry).encode()

        return message

    def value(data: bytes) -> Answer:
        parsed = from_binary(data)
        values: Any = message_to_json_value(parsed, registry=registry)
        if field.json_name not in values:  # It holds its default.
            values = message_to_json_value(parsed, registry=registry, always_emit_implicit=True)
        return JSON, json.dumps(values.get(field.json_name), ensure_ascii=False).encode()

    return value


def _field(descriptor: DescMessage, name: str) -> DescField:
    try:
        return resolve(descriptor, (name,))[0]
    except FieldPathError as error:
        raise RuleError(str(error)) from error
