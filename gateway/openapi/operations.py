"""The routes of one service as operations of an OpenAPI document."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from protobuf import DescField, DescFieldValueList, DescFieldValueMap, DescMessage, DescMethod

from gateway.fields import find_field
from gateway.http_rule import ANY_METHOD, WHOLE, Binding
from gateway.openapi.components import Components, Element, element_of
from gateway.openapi.examples import NOTHING, Examples
from gateway.openapi.jobs import ACCEPTED, PARAMETERS, operation_example, operation_schema
from gateway.openapi.notes import Notes, summary
from gateway.openapi.parameters import Parameters
from gateway.openapi.paths import Path, openapi_path
from gateway.openapi.security import Security
from gateway.openapi.values import HTTP_BODY, RAW, JsonSchema
from gateway.path_template import PathTemplate
from gateway.schema import Method, Schema
from gateway.transcode import answers_raw, takes_raw
from rpc import MethodInfo

MAX_PARAMETERS = 100_000
"""Parameters of all operations of one service. Further ways to call its methods are left out."""

MAX_COPIED = 200
"""Fields of a message that is described anew for a body, because the path holds some of them."""

logger = logging.getLogger(__name__)

# What a path item of OpenAPI 3.1 can hold; methods of other names have no place in it.
_HTTP_METHODS = frozenset({"GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE"})

_KINDS = {(False, False): "unary", (False, True): "server", (True, False): "client", (True, True): "bidi"}

_JSON = "application/json"
_REQUEST_ID = {"x-request-id": {"$ref": "#/components/headers/RequestId"}}


class ServedRoute(Protocol):
    """A route that calls a method. One of REST has a ``binding`` besides."""

    @property
    def http_method(self) -> str:
        """``GET``, ``POST`` ... or ``*``."""

    @property
    def template(self) -> PathTemplate:
        """Which paths lead there."""

    @property
    def info(self) -> MethodInfo:
        """The method that is called."""


@dataclass(slots=True)
class Operation:
    """One way to call a method."""

    path: Path
    http_method: str
    """In lower case, as a path item has it."""

    text: dict[str, Any]


@dataclass(slots=True)
class Described:
    """All that is said of one service."""

    tag: dict[str, Any]
    rest: list[Operation] = field(default_factory=list)
    connect: list[Operation] = field(default_factory=list)
    only_connect: list[Operation] = field(default_factory=list)
    """Those of ``connect`` that plain HTTP clients can use and that have no other way."""

    schemas: dict[str, JsonSchema] = field(default_factory=dict)


def describe(schema: Schema, routes: Iterable[ServedRoute], security: Security, *, closed: bool) -> Described:
    """Describe a service by those of its routes that are served.

    ``closed``: REST refuses unknown fields. Takes some milliseconds: not for the event loop.
    """
    return _Describer(schema, security, closed=closed).describe(list(routes))


class _Describer:
    def __init__(self, schema: Schema, security: Security, *, closed: bool) -> None:
        self._schema = schema
        self._security = security
        self._methods = {method.info.name: method for method in schema.methods}
        self._service = schema.registry.service(schema.service)
        assert self._service is not None  # noqa: S101 - the schema was loaded for it
        self._descriptors = {method.name: method for method in self._service.methods}
        self._notes = Notes(schema.registry)
        answered = [method.response.desc() for method in schema.methods]
        self._components = Components(self._notes, answered, closed=closed)
        self._examples = Examples(self._components)
        self._answers = Examples(self._components, of_answers=True)
        self._parameters = Parameters(self._components, self._examples)

    def describe(self, routes: list[ServedRoute]) -> Described:
        service = self._service
        tag: dict[str, Any] = {"name": self._schema.service}
        comment = self._notes.comment(service.file, service.type_name) if service is not None else ""
        if comment:
            tag["description"] = comment
        result = Described(tag)
        bindings: dict[str, int] = {}
        room = MAX_PARAMETERS
        for route in routes:
            binding: Binding | None = getattr(route, "binding", None)
            method = self._methods[route.info.name]
            if binding is not None and self._has_place(method, binding):
                number = bindings[method.info.name] = bindings.get(method.info.name, 0) + 1
                result.rest.append(self._rest(method, binding, number))
                self._open(route, result.rest[-1])
                room -= len(result.rest[-1].text.get("parameters", ()))
                if room < 0:
                    logger.warning("%s has too many parameters: not all is in /openapi.json", self._schema.service)
                    break
        for route in routes:
            if getattr(route, "binding", None) is None and route.http_method == "POST":
                method = self._methods[route.info.name]
                alone = method.info.name not in bindings
                operation = self._connect(method, alone=alone)
                self._open(route, operation)
                result.connect.append(operation)
                if alone and method.info.is_unary:
                    result.only_connect.append(operation)
        result.schemas = self._components.finish()
        return result

    def _open(self, route: ServedRoute, operation: Operation) -> None:
        if self._security.is_public(route):
            operation.text["security"] = []

    @staticmethod
    def _has_place(method: Method, binding: Binding) -> bool:
        # A stream of requests is one HTTP request if it is one of bytes, whatever its rule says.
        if method.info.client_streaming and not takes_raw(method, binding):
            return False
        return binding.http_method in _HTTP_METHODS or binding.http_method == ANY_METHOD

    # -------------------------------------------------------------------------------------------------------- REST

    def _rest(self, method: Method, binding: Binding, number: int) -> Operation:
        path = openapi_path(binding.template)
        text = self._head(method, "rest", f".{number}" if number > 1 else "")
        request = method.request.desc()
        # Those of the path come first, as the document wants them.
        parameters = list(self._parameters.of_path(request, path.parameters))
        if binding.body != WHOLE:
            bound = [variable.field_path for variable in binding.template.variables]
            body_field = find_field(request, binding.body) if binding.body else None
            if body_field is not None:
                bound.append((body_field.name,))
            parameters += self._parameters.of_query(request, bound)
        if method.info.job is not None:
            parameters += PARAMETERS
        if parameters:
            text["parameters"] = parameters
        if binding.body:
            text["requestBody"] = {"required": True, "content": self._body(request, binding)}
        text["responses"] = {
            "200": {
                "description": "OK" if method.info.job is None else ACCEPTED,
                "headers": _REQUEST_ID,
                "content": self._answer(method, binding),
            },
            "default": {"$ref": "#/components/responses/Error"},
        }
        http_method = binding.http_method
        if http_method == ANY_METHOD:
            http_method = "POST" if binding.body else "GET"
        return Operation(path, http_method.lower(), text)

    def _body(self, request: DescMessage, binding: Binding) -> dict[str, Any]:
        if binding.body != WHOLE:
            body_field = find_field(request, binding.body)
            assert body_field is not None  # noqa: S101 - the route was built with it
            element = None if _is_map_or_list(body_field) else element_of(body_field)
            if _is_raw(element):
                return _raw_body()
            return {_JSON: _media(self._components.field(body_field), self._examples.field(body_field))}
        if _is_raw(request):
            return _raw_body()
        # What the path says cannot be said otherwise.
        in_path = frozenset(each.field_path[0] for each in binding.template.variables if len(each.field_path) == 1)
        if len(request.fields) <= MAX_COPIED and in_path & {each.name for each in request.fields}:
            schema = self._components.object(request, in_path)
        else:
            schema = self._components.element(request)
        return {_JSON: _media(schema, self._examples.message(request, in_path))}

    def _answer(self, method: Method, binding: Binding) -> dict[str, Any]:
        response = method.response.desc()
        if answers_raw(method, binding):
            return {"*/*": {"schema": dict(RAW)}}
        answer_field = find_field(response, binding.response_body) if binding.response_body else None
        if answer_field is not None:
            schema, example = self._components.field(answer_field), self._answers.field(answer_field)
        else:
            schema, example = self._response(method)
        if not method.info.server_streaming:
            return {_JSON: _media(schema, example)}
        return {
            "application/x-ndjson": {"schema": {"type": "array", "items": schema, "description": _NDJSON}},
            "text/event-stream": {"schema": {"type": "string", "description": _EVENTS}},
        }

    def _response(self, method: Method) -> tuple[JsonSchema, Any]:
        """Return the schema and an example of a whole response."""
        info, response = method.info, method.response.desc()
        if info.job is None:
            return self._components.element(response), self._answers.message(response)
        registry = self._schema.registry
        schema = operation_schema(info, response, self._components, registry)
        return schema, operation_example(info, registry, self._answers.message, NOTHING)

    # ----------------------------------------------------------------------------------------------------- Connect

    def _connect(self, method: Method, *, alone: bool) -> Operation:
        info = method.info
        text = self._head(method, "connect", "" if alone else ".Connect")
        request = method.request.desc()
        if info.job is not None:
            text["parameters"] = list(PARAMETERS)
        media_type = _JSON if info.is_unary else "application/connect+json"
        text["requestBody"] = {
            "required": True,
            "content": {media_type: _media(self._components.element(request), self._examples.message(request))},
        }
        text["responses"] = {
            "200": {
                "description": _description(info),
                "headers": _REQUEST_ID,
                "content": {media_type: _media(*self._response(method))},
            },
            "default": {"$ref": "#/components/responses/ConnectError"},
        }
        return Operation(Path(info.path, info.path, ()), "post", text)

    # -------------------------------------------------------------------------------------------------------- both

    def _head(self, method: Method, protocol: str, suffix: str) -> dict[str, Any]:
        info = method.info
        text: dict[str, Any] = {"tags": [info.service]}
        descriptor: DescMethod = self._descriptors[info.name]
        comment = self._notes.comment(descriptor.parent.file, f"{info.service}.{info.name}")
        if first := summary(comment):
            text["summary"] = first
        if comment:
            text["description"] = comment
        text["operationId"] = f"{info.service}.{info.name}{suffix}"
        if descriptor.deprecated or descriptor.parent.deprecated:
            text["deprecated"] = True
        text["x-natsmesh"] = {
            "method": info.full_name,
            "protocol": protocol,
            "kind": _KINDS[info.client_streaming, info.server_streaming],
        }
        return text


_NDJSON = (
    "One message a line. If the call fails on the way, the last line is an object whose field `error` holds a "
    "`google.rpc.Status`."
)
_EVENTS = (
    "One message an event, its data the JSON. The stream ends with an event `end`; if the call fails on the way, "
    "with an event `error` and a `google.rpc.Status`."
)
_ENVELOPES = "OK. Messages travel in the envelopes of the Connect protocol, both ways; errors are in the last one."


def _description(info: MethodInfo) -> str:
    if info.job is not None:
        return ACCEPTED
    return "OK" if info.is_unary else _ENVELOPES


def _media(schema: JsonSchema, example: Any) -> dict[str, Any]:
    return {"schema": schema} if example is NOTHING else {"schema": schema, "example": example}


def _raw_body() -> dict[str, Any]:
    # Any type will do; but there are tools that can send nothing of no type.
    return {media_type: {"schema": dict(RAW)} for media_type in ("application/octet-stream", "*/*")}


def _is_raw(element: Element | None) -> bool:
    return isinstance(element, DescMessage) and element.type_name == HTTP_BODY


def _is_map_or_list(body_field: DescField) -> bool:
    return isinstance(body_field.value, DescFieldValueMap | DescFieldValueList)
