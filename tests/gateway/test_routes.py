"""Matching: which route a path leads to. Each row names the rule or the test of others that it is taken from."""

import timeit
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.path_template import PathTemplate, parse_template
from gateway.routes import RouteTable


@dataclass(frozen=True)
class Route:
    http_method: str
    template: PathTemplate


def table(*rules: str) -> RouteTable[Route]:
    routes = []
    for rule in rules:
        method, _, template = rule.rpartition(" ")
        routes.append(Route(method or "GET", parse_template(template)))
    return RouteTable(routes)


def match(routes: RouteTable[Route], path: str, method: str = "GET") -> str | None:
    found = routes.find(method, path.encode())
    if found is None:
        return None
    route, segments = found
    values = ",".join(each.value(segments) for each in route.template.variables)
    return f"{route.template.source} {values}".strip()


# Each row: templates, path, template and values that it matches, source.
MATCHES: list[tuple[list[str], str, str | None, str]] = [
    (["/a/b"], "/a/b", "/a/b", "http.proto: LITERAL"),
    (["/a/b"], "/a/c", None, "http.proto: LITERAL"),
    (["/a/b"], "/a", None, "http.proto: LITERAL"),
    (["/a/b"], "/a/b/c", None, "http.proto: LITERAL"),
    (["/a/b"], "/a/b/", None, "grpc-gateway: a trailing slash is another path (Envoy drops it)"),
    (["/a/b"], "//a/b", None, "an empty segment is a segment"),
    (["/a/b"], "/A/B", None, "RFC 3986: paths are case-sensitive"),
    (["/a/b"], "/a/%62", None, "templates match the raw path"),
    (["/a%20b"], "/a%20b", "/a%20b", "templates match the raw path"),
    (["/a/{x}"], "/a/b", "/a/{x} b", "http.proto: '*' is one segment"),
    (["/a/{x}"], "/a/b/c", None, "http.proto: '*' is one segment"),
    (["/a/{x}"], "/a/", None, "'*' is one segment that is not empty"),
    (["/a/{x}"], "/a", None, "'*' is one segment"),
    (["/a/{x}"], "/a/b%2Fc", "/a/{x} b/c", "%2F never separates segments"),
    (["/a/*/c"], "/a/b/c", "/a/*/c", "http.proto: '*'"),
    (["/a/{x}/c"], "/a//c", None, "'*' is one segment that is not empty"),
    (["/a/{x=**}"], "/a", "/a/{x=**}", "http.proto: '**' matches zero segments"),
    (["/a/{x=**}"], "/a/", "/a/{x=**}", "http.proto: '**' matches zero or more"),
    (["/a/{x=**}"], "/a/b/c", "/a/{x=**} b/c", "http.proto: '**'"),
    (["/a/{x=**}"], "/a/b/", "/a/{x=**} b/", "grpc-gateway: '**' keeps a trailing slash"),
    (["/a/{x=**}"], "/b", None, "http.proto: LITERAL"),
    (["/**"], "/", "/**", "grpc-httpjson-transcoding path_matcher_test: WildCardMatchesRoot"),
    (["/**"], "/a/b/c", "/**", "grpc-httpjson-transcoding path_matcher_test: WildCardMatches"),
    (["/{x=a/*}/b"], "/a/1/b", "/{x=a/*}/b a/1", "http.proto: Variable of Segments"),
    (["/"], "/", "/", "the root"),
    # Precedence: a literal beats '*', '*' beats '**', at the first segment where they differ.
    (["/{x}", "/a"], "/a", "/a", "facts: literal beats '*'"),
    (["/**", "/{x}"], "/a", "/{x} a", "facts: '*' beats '**'"),
    (["/**", "/a"], "/a", "/a", "facts: literal beats '**'"),
    (["/a/{x=**}", "/{y}/b"], "/a/b", "/a/{x=**} b", "grpc-httpjson-transcoding: the first segment decides"),
    (["/a/{x}", "/a/b/{y=**}"], "/a/b", "/a/b/{y=**}", "the literal that goes on with '**' is the better one"),
    (["/{x}/b/c", "/a/{y}/d"], "/a/b/c", "/{x}/b/c a", "a dead end is left again"),
    (["/a/b/{x}/c", "/a/{y=**}"], "/a/b/1/d", "/a/{y=**} b/1/d", "a dead end is left again"),
    # Verbs.
    (["/a/{x}:run"], "/a/b:run", "/a/{x}:run b", "http.proto: Verb"),
    (["/a/{x}:run"], "/a/b", None, "http.proto: Verb"),
    (["/a/{x}:run"], "/a/b:stop", None, "http.proto: Verb"),
    (["/a/{x}"], "/a/b:run", "/a/{x} b:run", "facts: ':verb' splits only if that verb is registered"),
    (["/a/{x}", "/a/{x}:run"], "/a/b:run", "/a/{x}:run b", "the verb is the better match"),
    (["/a/{x}", "/c/{x}:run"], "/a/b:run", "/a/{x} b:run", "no route with that verb here"),
    (["/a/{x}:run"], "/a/b:c:run", "/a/{x}:run b:c", "the last colon"),
    (["/a/{x}:b:run"], "/a/1:b:run", "/a/{x}:b:run 1", "a verb with a colon"),
    (["/a/{x=**}:run"], "/a/b/c:run", "/a/{x=**}:run b/c", "http.proto: '**' last except the Verb"),
    (["/a:run"], "/a:run", "/a:run", "AIP-136"),
    (["/a/{x}:run", "/a/b:run"], "/a/b:run", "/a/b:run", "a literal beats '*', with a verb as well"),
    (["/a/{x}:run"], "/a/:run", None, "'*' is one segment that is not empty"),
    (["/a/{x}"], "/a/b%3Arun", "/a/{x} b:run", "an escaped colon is no verb's"),
]


@pytest.mark.parametrize(("templates", "path", "expected", "source"), MATCHES)
def test_match(templates: list[str], path: str, expected: str | None, source: str) -> None:
    assert match(table(*templates), path) == expected


@pytest.mark.parametrize(("templates", "path", "expected", "source"), MATCHES)
def test_the_order_of_registration_does_not_matter(
    templates: list[str], path: str, expected: str | None, source: str
) -> None:
    assert match(table(*reversed(templates)), path) == expected


def test_methods_are_apart() -> None:
    routes = table("GET /a/{x}", "POST /a/{y}", "DELETE /a/b")
    assert match(routes, "/a/1", "GET") == "/a/{x} 1"
    assert match(routes, "/a/1", "POST") == "/a/{y} 1"
    assert match(routes, "/a/1", "DELETE") is None
    # A literal of another method does not hide the route of this one.
    assert match(routes, "/a/b", "GET") == "/a/{x} b"
    assert routes.methods_for(b"/a/b") == ["DELETE", "GET", "POST"]
    assert routes.methods_for(b"/a/1") == ["GET", "POST"]
    assert routes.methods_for(b"/b") == []


def test_any_method_comes_after_the_method_itself() -> None:
    routes = table("* /a/{x}", "GET /a/{y}")
    assert match(routes, "/a/1", "GET") == "/a/{y} 1"
    assert match(routes, "/a/1", "BREW") == "/a/{x} 1"


def test_the_earlier_of_two_in_conflict_keeps_serving() -> None:
    first, second, third = (Route("GET", parse_template(each)) for each in ("/a/{x}", "/a/{y=*}", "/a/{x}:run"))
    routes = RouteTable([first, second, third])
    found = routes.find("GET", b"/a/1")
    assert found is not None
    assert found[0] is first
    assert [(each.kept, each.refused) for each in routes.conflicts] == [(first, second)]
    assert routes.all() == [first, third]


def test_literal_conflicts() -> None:
    first, second = (Route("GET", parse_template(each)) for each in ("/a/b", "/a/{x=b}"))
    assert [(each.kept, each.refused) for each in RouteTable([first, second]).conflicts] == [(first, second)]


def test_a_thousand_routes_cost_what_ten_do() -> None:
    def seconds(count: int) -> float:
        routes = table(*(f"/v1/r{number}/{{x}}/y/{{z=**}}" for number in range(count)))
        path = f"/v1/r{count - 1}/a/y/b/c".encode()
        assert routes.find("GET", path) is not None
        return min(timeit.repeat(lambda: routes.find("GET", path), number=500, repeat=10))

    assert seconds(1000) < 2 * seconds(10)


segment = st.sampled_from(["a", "b", "*", "a:b"])
templates = st.lists(
    st.builds(
        lambda parts, rest, verb: "/" + "/".join(parts + ["**"] * rest) + f":{verb}" * bool(verb),
        st.lists(segment.filter(lambda each: ":" not in each), min_size=1, max_size=4),
        st.integers(0, 1),
        st.sampled_from(["", "", "b", "run"]),
    ),
    min_size=1,
    max_size=8,
    unique=True,
)


@given(templates, st.lists(st.sampled_from(["a", "b", "c", "a:b", "c:run", ""]), min_size=1, max_size=6))
def test_a_match_matches_and_a_miss_has_no_match(sources: list[str], parts: list[str]) -> None:
    """The trie finds a route exactly if trying all templates one by one does."""
    path = "/" + "/".join(parts)
    found = table(*sources).find("GET", path.encode())
    fitting = {source for source in sources if _fits(source, parts)}
    if found is None:
        assert not fitting
    else:
        assert found[0].template.source in fitting


def _fits(source: str, parts: list[str]) -> bool:
    template = parse_template(source)
    if template.verb:
        if not parts[-1].endswith(f":{template.verb}"):
            return False
        parts = [*parts[:-1], parts[-1][: -len(template.verb) - 1]]
    segments = list(template.segments)
    if segments[-1] == "**":
        segments.pop()
        if len(parts) < len(segments):
            return False
        parts = parts[: len(segments)]
    return len(parts) == len(segments) and all(
        part == each or (each == "*" and part) for each, part in zip(segments, parts, strict=True)
    )
