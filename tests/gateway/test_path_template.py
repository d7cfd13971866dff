"""The grammar of path templates. Each row names the rule or the test of others that it is taken from."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.path_template import MAX_SEGMENTS, MAX_TEMPLATE_LENGTH, TemplateError, parse_template

# Each row: template, segments, {variable: (start, end, multi-segment)}, verb, source.
VALID: list[tuple[str, tuple[str, ...], dict[str, tuple[int, int | None, bool]], str, str]] = [
    ("/v1/messages", ("v1", "messages"), {}, "", "http.proto: Segments of LITERAL"),
    ("/v1/{name}", ("v1", "*"), {"name": (1, 2, False)}, "", "http.proto: {var} is {var=*}"),
    ("/v1/{name=*}", ("v1", "*"), {"name": (1, 2, False)}, "", "http.proto: {var=*}"),
    ("/v1/{name=**}", ("v1", "**"), {"name": (1, None, True)}, "", "http.proto: {var=**}"),
    ("/v1/{name=a/*}", ("v1", "a", "*"), {"name": (1, 3, True)}, "", "http.proto: {var=foo/*}"),
    ("/v1/{name=a/*/b/*}", ("v1", "a", "*", "b", "*"), {"name": (1, 5, True)}, "", "http.proto: Variable of Segments"),
    ("/v1/{name=a/**}", ("v1", "a", "**"), {"name": (1, None, True)}, "", "AIP-4222: resource names"),
    ("/v1/{a.b.c}", ("v1", "*"), {"a.b.c": (1, 2, False)}, "", "http.proto: FieldPath"),
    ("/v1/{name=abc}", ("v1", "abc"), {"name": (1, 2, False)}, "", "http.proto: a variable of one literal"),
    ("/v1/{a}/b/{c}", ("v1", "*", "b", "*"), {"a": (1, 2, False), "c": (3, 4, False)}, "", "http.proto: two variables"),
    ("/{a=x/*}/{b}", ("x", "*", "*"), {"a": (0, 2, True), "b": (2, 3, False)}, "", "variables are counted in segments"),
    ("/v1/*", ("v1", "*"), {}, "", "http.proto: Segment = '*'"),
    ("/v1/**", ("v1", "**"), {}, "", "http.proto: Segment = '**'"),
    ("/**", ("**",), {}, "", "grpc-httpjson-transcoding http_template_test: /**"),
    ("/*", ("*",), {}, "", "grpc-httpjson-transcoding http_template_test: /*"),
    ("/v1/{name}:cancel", ("v1", "*"), {"name": (1, 2, False)}, "cancel", "http.proto: Verb"),
    ("/v1/messages:search", ("v1", "messages"), {}, "search", "AIP-136: custom methods"),
    ("/v1/**:verb", ("v1", "**"), {}, "verb", "http.proto: '**' last except the Verb"),
    ("/v1/{name=a/**}:verb", ("v1", "a", "**"), {"name": (1, None, True)}, "verb", "the same in a variable"),
    (
        "/v1/{name}:a:b",
        ("v1", "*"),
        {"name": (1, 2, False)},
        "a:b",
        "grpc-gateway #1947: after a variable, all is verb",
    ),
    ("/v1/a:b:c", ("v1", "a:b"), {}, "c", "grpc-gateway: the last colon begins the verb"),
    ("/v1/a:b/c", ("v1", "a:b", "c"), {}, "", "a colon in an earlier segment is part of it"),
    ("/v1/a%20b", ("v1", "a%20b"), {}, "", "RFC 3986: pchar"),
    ("/v1/a-b_c.d~e", ("v1", "a-b_c.d~e"), {}, "", "RFC 3986: unreserved"),
    ("/", ("",), {}, "", "our addition: the root"),
]

# Each row: template, part of the message, source.
INVALID: list[tuple[str, str, str]] = [
    ("", "start with '/'", "http.proto: Template"),
    ("v1/a", "start with '/'", "http.proto: Template"),
    ("//", "expected a literal", "grpc-httpjson-transcoding http_template_test: //"),
    ("/a/", "expected a literal", "grpc-httpjson-transcoding http_template_test: /a/"),
    ("/a//b", "expected a literal", "http.proto: Segment is never empty"),
    ("/{", "field name", "grpc-httpjson-transcoding http_template_test: /{"),
    ("/{}", "field name", "grpc-httpjson-transcoding http_template_test: /{}"),
    ("/{a", "expected '}'", "grpc-httpjson-transcoding http_template_test: /a/{id"),
    ("/a}", "expected '/', ':' or the end", "grpc-httpjson-transcoding http_template_test: /a/id}"),
    ("/{a=}", "expected a literal", "http.proto: Segments"),
    ("/{a.}", "field name", "http.proto: FieldPath"),
    ("/{.a}", "field name", "http.proto: FieldPath"),
    ("/{1a}", "field name", "http.proto: IDENT"),
    ("/{a b}", "expected '}'", "http.proto: IDENT"),
    ("/{a={b}}", "another variable", "http.proto: a variable template must not contain other variables"),
    ("/{a=*/{b}/x}", "another variable", "the same, deeper"),
    ("/{a}{b}", "expected '/', ':' or the end", "http.proto: one variable a segment"),
    ("/x{a}", "expected '/', ':' or the end", "http.proto: a variable is a whole segment"),
    ("/{a}x", "expected '/', ':' or the end", "http.proto: a variable is a whole segment"),
    ("/{a}/{a}", "twice", "grpc-gateway: a variable can be bound once"),
    ("/**/a", "last segment", "http.proto: '**' must be the last part"),
    ("/{a=**}/b", "last segment", "the same in a variable"),
    ("/{a=**/b}", "last segment", "the same inside a variable"),
    ("/***", "expected '/', ':' or the end", "http.proto: Segment"),
    ("/*a", "expected '/', ':' or the end", "http.proto: a wildcard is a whole segment"),
    ("/a*", "expected '/', ':' or the end", "http.proto: a wildcard is a whole segment"),
    ("/a:", "expected a verb", "grpc-httpjson-transcoding http_template_test: /a:"),
    ("/{a}:", "expected a verb", "http.proto: Verb"),
    ("/:verb", "verb must follow a segment", "http.proto: Segments come before the Verb"),
    ("/a?b", "expected '/', ':' or the end", "a path has no query"),
    ("/a#b", "expected '/', ':' or the end", "a path has no fragment"),
    ("/a b", "expected '/', ':' or the end", "RFC 3986: pchar"),
    ("/ä", "percent-encoded", "RFC 3986: pchar"),
    ("/a%2", "expected '/', ':' or the end", "RFC 3986: pct-encoded"),
    ("/a\r\nb", "expected '/', ':' or the end", "RFC 3986: pchar"),
    ("/" + "a" * MAX_TEMPLATE_LENGTH, "characters", "bounded length"),
    ("/a" * (MAX_SEGMENTS + 1), "segments", "bounded depth"),
]


@pytest.mark.parametrize(("template", "segments", "variables", "verb", "source"), VALID)
def test_valid(
    template: str, segments: tuple[str, ...], variables: dict[str, tuple[int, int | None, bool]], verb: str, source: str
) -> None:
    parsed = parse_template(template)
    assert parsed.segments == segments
    assert {each.name: (each.start, each.end, each.multi_segment) for each in parsed.variables} == variables
    assert parsed.verb == verb


@pytest.mark.parametrize(("template", "message", "source"), INVALID)
def test_invalid(template: str, message: str, source: str) -> None:
    with pytest.raises(TemplateError) as caught:
        parse_template(template)
    assert message in str(caught.value)


def test_an_error_names_the_column() -> None:
    with pytest.raises(TemplateError, match="column 8"):
        parse_template("/v1/{a=}")


# Each row: template, path, {variable: value}, source.
VALUES: list[tuple[str, bytes, dict[str, str], str]] = [
    ("/v1/{name}", b"/v1/Ada", {"name": "Ada"}, "http.proto"),
    ("/v1/{name}", b"/v1/a%20b", {"name": "a b"}, "http.proto: reverse decoding"),
    ("/v1/{name}", b"/v1/a%2Fb", {"name": "a/b"}, "facts: a single-segment variable decodes everything"),
    ("/v1/{name}", b"/v1/a+b", {"name": "a+b"}, "RFC 3986: '+' is itself in a path"),
    ("/v1/{name}", b"/v1/%C3%A4", {"name": "ä"}, "RFC 3987: escapes are UTF-8"),
    ("/v1/{name}", b"/v1/%2525", {"name": "%25"}, "decoded once"),
    ("/v1/{name}", b"/v1/..", {"name": ".."}, "paths are matched as they are sent"),
    ("/v1/{name=**}", b"/v1/a/b", {"name": "a/b"}, "http.proto"),
    ("/v1/{name=**}", b"/v1/a%2Fb/c", {"name": "a%2Fb/c"}, "http.proto: in multi-segment variables %2F is left"),
    ("/v1/{name=**}", b"/v1/a%2fb%20c", {"name": "a%2fb c"}, "http.proto: except %2F and %2f, all is decoded"),
    ("/v1/{name=**}", b"/v1", {"name": ""}, "http.proto: '**' matches zero segments"),
    ("/v1/{name=a/*}", b"/v1/a/b%20c", {"name": "a/b c"}, "http.proto"),
    ("/v1/{name=a/*}", b"/v1/a/%2F", {"name": "a/%2F"}, "facts: a multi-segment variable leaves %2F"),
    ("/v1/{a}/{b=x/**}", b"/v1/1/x/y/z", {"a": "1", "b": "x/y/z"}, "two variables"),
]


@pytest.mark.parametrize(("template", "path", "values", "source"), VALUES)
def test_values(template: str, path: bytes, values: dict[str, str], source: str) -> None:
    segments = path[1:].split(b"/")
    assert {each.name: each.value(segments) for each in parse_template(template).variables} == values


@pytest.mark.parametrize("raw", [b"%", b"%2", b"%zz", b"a%", b"%FF", b"%C3", b"%ED%A0%80", b"\xff"])
@pytest.mark.parametrize("template", ["/{a}", "/{a=**}"])
def test_broken_values(template: str, raw: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_template(template).variables[0].value([raw])


@given(st.text(st.sampled_from("/{}=*:.ab%2 -"), max_size=40))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        parsed = parse_template(text)
    except TemplateError:
        return
    # What is parsed can be written again and means the same.
    again = parse_template(_write(parsed))
    assert (again.segments, again.verb) == (parsed.segments, parsed.verb)
    assert again.variables == parsed.variables


def _write(template: Any) -> str:
    if template.segments == ("",):
        return "/"
    parts: list[str] = []
    at = 0
    for variable in template.variables:
        parts += template.segments[at : variable.start]
        at = len(template.segments) if variable.end is None else variable.end
        parts.append(f"{{{variable.name}={'/'.join(template.segments[variable.start : at])}}}")
    parts += template.segments[at:]
    return "/" + "/".join(parts) + (f":{template.verb}" if template.verb else "")


@given(st.binary(max_size=60))
def test_any_bytes_are_a_value_or_refused(raw: bytes) -> None:
    variable = parse_template("/{a=**}").variables[0]
    try:
        value = variable.value(raw.split(b"/"))
    except ValueError:
        return
    value.encode()
