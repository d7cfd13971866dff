"""``google.api.HttpRule`` read and checked: which HTTP method and path call which method, and what the body is.

Source: google/api/http.proto, "Rules for HTTP mapping".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from google.api.http_pb2 import HttpRule

from gateway.path_template import PathTemplate, parse_template

ANY_METHOD = "*"
"""The custom kind that leaves the HTTP method open."""

WHOLE = "*"
"""The ``body`` that maps the whole request message."""

MAX_BINDINGS = 64
"""Bindings of one method; schemas are other people's, so the number is bounded."""

# RFC 9110, "token", without what no method ever has; the kind ends up in an Allow header.
_KIND = re.compile(r"[A-Z][A-Z0-9-]{0,31}|\*")


class RuleError(ValueError):
    """A rule that cannot be served; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Binding:
    """One way to call a method over HTTP."""

    http_method: str
    """``GET``, ``POST`` ... or ``*``."""

    template: PathTemplate
    body: str
    """``*``, the name of a field of the request, or empty: the request has no body."""

    response_body: str
    """The name of the field of the response that is answered, or empty: the whole response."""


def bindings(rule: HttpRule) -> Iterator[Binding | RuleError]:
    """Yield the binding of a rule and its additional ones; a faulty one comes as the error that says why."""
    if len(rule.additional_bindings) >= MAX_BINDINGS:
        yield RuleError(f"{len(rule.additional_bindings)} additional bindings: at most {MAX_BINDINGS - 1} are served")
    for number, each in enumerate((rule, *rule.additional_bindings[: MAX_BINDINGS - 1])):
        try:
            if number and each.additional_bindings:
                raise RuleError("an additional binding cannot have additional bindings itself")
            yield _binding(each)
        except ValueError as error:
            yield RuleError(str(error))


def _binding(rule: HttpRule) -> Binding:
    pattern = rule.WhichOneof("pattern")
    if pattern is None:
        raise RuleError("the rule names no path (get, put, post, delete, patch or custom)")
    if pattern == "custom":
        kind, path = rule.custom.kind, rule.custom.path
        if not _KIND.fullmatch(kind):
            raise RuleError(f"the custom kind {kind!r} is not an HTTP method in capitals, nor '*'")
    else:
        kind, path = pattern.upper(), getattr(rule, pattern)
    for name, value in (("body", rule.body), ("response_body", rule.response_body)):
        if "." in value:
            raise RuleError(f"{name} {value!r} must be a field at the top level of the message")
    if rule.response_body == WHOLE:
        raise RuleError("response_body must be a field; leave it out for the whole response")
    return Binding(kind, parse_template(path), rule.body, rule.response_body)
