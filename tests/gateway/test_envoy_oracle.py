"""What Envoy's gRPC-JSON transcoder makes of requests, and what we make of them: alike, or for a reason.

Both stand in front of the same servicer: Envoy before grpc.aio, our gateway before NATS. They get the same requests;
what is compared is the class of the status, and the request as the back-end decoded it. ``EXPLAINED`` has every
difference that is meant, with an example; any other fails the test, and so does a reason that holds no more.
"""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.gateway.envoy import EnvoyProcess
from tests.gateway.oracle import SCHEMA, SERVICE, Http, Outcome, serve_grpc, serve_nats
from tests.gateway.oracle_requests import Generator, Request
from tests.gateway.processes import GatewayProcess

SEED = 20240229
REQUESTS = 1150
"""Fifty of each kind of ``Generator``."""


@dataclass(frozen=True)
class Difference:
    """A difference that is meant."""

    reason: str
    example: Request
    ours: str
    theirs: str
    applies: Callable[[Request, Outcome, Outcome], bool]
    """Tells whether it explains the difference between our outcome and Envoy's."""


def we_say(pattern: str) -> Callable[[Request, Outcome, Outcome], bool]:
    """We refuse what Envoy serves, and say this."""
    return lambda _request, ours, theirs: (
        ours.status == 400 and theirs.status == 200 and re.search(pattern, ours.message) is not None
    )


def path_matches(pattern: str, ours: int, theirs: int) -> Callable[[Request, Outcome, Outcome], bool]:
    """Return whether path and statuses are these."""
    return lambda request, our, their: (
        re.search(pattern, request.path) is not None and (our.status, their.status) == (ours, theirs)
    )


def both_serve(condition: Callable[[Request], bool]) -> Callable[[Request, Outcome, Outcome], bool]:
    """Both serve it, and a condition holds."""
    return lambda request, ours, theirs: ours.status == theirs.status == 200 and condition(request)


def body_says_what_the_path_says(request: Request) -> bool:
    """Whether a field of the path is in the body, too."""
    whole = request.method == "PUT" and '"string"' in request.body
    nested = request.method == "PATCH" and '"nested"' in request.body
    field = request.method == "PUT" and request.path.startswith("/v1/field/") and '"text"' in request.body
    return whole or nested or field or ":archive" in request.path


def number_of_no_name(_request: Request, ours: Outcome, theirs: Outcome) -> bool:
    return ours.status == 200 and theirs.status == 400 and re.search(r'"colours?": (\[.*)?-?\d', ours.seen) is not None


EXPLAINED = [
    Difference(
        "a '%' that begins no escape is a mistake of whoever wrote the path (RFC 3986, 2.1); Envoy takes it as it is",
        Request("GET", "/v1/rest/a/%zz"),
        "4xx",
        '2xx Rest {"string": "a/%zz"}',
        we_say("two hexadecimal digits"),
    ),
    Difference(
        "a string is UTF-8 (protobuf, 'string'); Envoy passes bytes on that no back-end can parse",
        Request("GET", "/v1/query?string=%FF"),
        "4xx",
        "2xx Query with what is no message",
        we_say("not UTF-8"),
    ),
    Difference(
        "a trailing slash makes another path (http.proto: '**' matches segments, one may be empty); Envoy drops it",
        Request("GET", "/v1/rest/a/"),
        '2xx Rest {"string": "a/"}',
        '2xx Rest {"string": "a"}',
        both_serve(lambda request: re.search(r"/(:archive)?$", request.path) is not None),
    ),
    Difference(
        "the same where no empty segment is taken",
        Request("GET", "/v1/one/a/"),
        "4xx",
        '2xx One {"string": "a"}',
        path_matches(r"/(:archive)?$", 404, 200),
    ),
    Difference(
        "'*' takes one segment that is not empty, or '/v1/one//of/x' would ask for a book without a name",
        Request("GET", "/v1/one//of/x"),
        "4xx",
        '2xx One {"nested": {"text": "x"}}',
        path_matches(r"//", 404, 200),
    ),
    Difference(
        "what the path says stays: others authorise by it (facts: a body must never override a path variable). Envoy "
        "lets the body win, or refuses by option",
        Request("PUT", "/v1/whole/mine", '{"string": "theirs"}'),
        '2xx Whole {"string": "mine"}',
        '2xx Whole {"string": "theirs"}',
        both_serve(body_says_what_the_path_says),
    ),
    Difference(
        "a parameter cannot say what path or body say (http.proto: all other fields are parameters); Envoy lets it win",
        Request("GET", "/v1/one/mine?string=theirs"),
        "4xx",
        '2xx One {"string": "theirs"}',
        we_say("is taken from the path or the body"),
    ),
    Difference(
        "with the body '*' there are no parameters (http.proto, rule 2)",
        Request("POST", "/v1/whole?int32=7", "{}"),
        "4xx",
        '2xx Whole {"int32": 7}',
        we_say("takes its parameters in the body"),
    ),
    Difference(
        "a field that is not repeated has one value; of several, Envoy takes the last",
        Request("GET", "/v1/query?int32=1&int32=2"),
        "4xx",
        '2xx Query {"int32": 2}',
        we_say("stands twice"),
    ),
    Difference(
        "a parameter without a name is an unknown one; Envoy passes over it",
        Request("GET", "/v1/query?=1"),
        "4xx",
        "2xx Query {}",
        we_say("unknown query parameter ''"),
    ),
    Difference(
        "repeated messages must not be parameters (http.proto, special notes)",
        Request("GET", "/v1/query?nesteds.text=x"),
        "4xx",
        '2xx Query {"nesteds": [{"text": "x"}]}',
        we_say("'nesteds' has no fields of its own"),
    ),
    Difference(
        "true and false are the booleans of ProtoJSON; Envoy takes 'True', '1' and 'yes' as well",
        Request("GET", "/v1/query?bool=yes"),
        "4xx",
        '2xx Query {"bool": true}',
        we_say("expected true or false"),
    ),
    Difference(
        "ProtoJSON has no plus sign before numbers; Envoy takes it",
        Request("GET", "/v1/typed/+1/false/1.5/GREEN"),
        "4xx",
        '2xx Typed {"colour": "GREEN", "double": 1.5, "int32": 1}',
        we_say(r"expected an integer, got '\+1'"),
    ),
    Difference(
        "an enum of proto3 is open: a number without a name is kept (ProtoJSON); Envoy refuses it in URLs",
        Request("GET", "/v1/query?colour=77"),
        '2xx Query {"colour": 77}',
        "4xx",
        number_of_no_name,
    ),
    Difference(
        "unknown fields are refused with their name, or passed over by option; Envoy always passes over them",
        Request("POST", "/v1/whole", '{"nope": 1}'),
        "4xx",
        "2xx Whole {}",
        we_say("has no such field"),
    ),
    Difference(
        "JSON has double quotes (RFC 8259); Envoy's parser takes others, too",
        Request("POST", "/v1/whole", "{'int32': 1}"),
        "4xx",
        '2xx Whole {"int32": 1}',
        we_say("not valid JSON: key must be a string"),
    ),
    Difference(
        "the JSON of a value is that of its type (ProtoJSON); Envoy takes a string for a boolean",
        Request("POST", "/v1/whole", '{"bool": "true"}'),
        "4xx",
        '2xx Whole {"bool": true}',
        we_say("^bool: unexpected json"),
    ),
    Difference(
        "a number is no hexadecimal one (ProtoJSON); Envoy takes it",
        Request("POST", "/v1/whole", '{"double": "0x1"}'),
        "4xx",
        '2xx Whole {"double": 1.0}',
        we_say("invalid float/double value: 0x1"),
    ),
    Difference(
        "numbers in strings are read as Python does (protobuf-py), with underscores and the digits of all scripts, and "
        "integers with a fraction of zero; Envoy refuses those",
        Request("POST", "/v1/whole", '{"int32": "1_0"}'),
        '2xx Whole {"int32": 10}',
        "4xx",
        lambda request, ours, theirs: (
            (ours.status, theirs.status) == (200, 400)
            and re.search(r'"(1_0|7\.0|1e2|\\u0667)"', request.body) is not None
        ),
    ),
    Difference(
        "an enum is its name or an integer (ProtoJSON); Envoy takes '2' and 1.0",
        Request("POST", "/v1/whole", '{"colour": "2"}'),
        "4xx",
        '2xx Whole {"colour": "GREEN"}',
        we_say("^colour: cannot decode"),
    ),
    Difference(
        "base64 has no spaces (RFC 4648, 3.3); Envoy passes over them",
        Request("POST", "/v1/whole", '{"bytes": "Y Q"}'),
        "4xx",
        '2xx Whole {"bytes": "YQ=="}',
        we_say("invalid base64 data"),
    ),
    Difference(
        "the names in a FieldMask are in lowerCamelCase (ProtoJSON); Envoy takes those of the .proto",
        Request("POST", "/v1/whole", '{"fieldMask": "a_b"}'),
        "4xx",
        '2xx Whole {"fieldMask": "aB"}',
        we_say("must be lowerCamelCase"),
    ),
    Difference(
        "a name in a FieldMask is not empty; Envoy drops an empty one",
        Request("POST", "/v1/whole", '{"fieldMask": "a,"}'),
        "4xx",
        '2xx Whole {"fieldMask": "a"}',
        we_say("invalid FieldMask path"),
    ),
    Difference(
        "null is no element of a list or map (ProtoJSON); Envoy passes over it or takes the default",
        Request("POST", "/v1/whole", '{"nesteds": [null]}'),
        "4xx",
        "2xx Whole {}",
        we_say(r"null"),
    ),
    Difference(
        "a repeated field is a list (ProtoJSON); Envoy takes a single value for it",
        Request("POST", "/v1/whole", '{"numbers": 1}'),
        "4xx",
        '2xx Whole {"numbers": [1]}',
        we_say("^numbers: expected list"),
    ),
    Difference(
        "a colon begins a verb only where a route of the method has that verb (facts); Envoy splits at any verb of any "
        "method, and looks no further",
        Request("PUT", "/v1/whole/a:archive", "{}"),
        '2xx Whole {"string": "a:archive"}',
        "4xx",
        path_matches(":archive$", 200, 404),
    ),
    Difference(
        "the same, where Envoy then drops what it took for a verb",
        Request("PUT", "/v1/any/a:archive"),
        '2xx Any {"string": "a:archive"}',
        '2xx Any {"string": "a"}',
        both_serve(lambda request: request.path.endswith(":archive")),
    ),
]


@pytest.fixture(scope="module")
def prefix() -> str:
    return f"t{secrets.token_hex(4)}"


@pytest.fixture
async def both(nats_url: str, prefix: str, tmp_path: Path) -> AsyncIterator[tuple[Http, Http]]:
    """Our gateway and Envoy."""
    back_end = await serve_nats(nats_url, prefix)
    grpc_server, port = await serve_grpc()
    envoy = EnvoyProcess(tmp_path, SCHEMA, SERVICE, port)
    gateway = GatewayProcess(tmp_path, nats_url, prefix)
    try:
        # On threads: the back-ends are on this loop, and the gateway asks them for their schemas before it is ready.
        await asyncio.gather(asyncio.to_thread(gateway.start), asyncio.to_thread(envoy.wait_ready))
        ours, theirs = Http(gateway.port), Http(envoy.port)
        yield ours, theirs
        ours.close()
        theirs.close()
    finally:
        gateway.close()
        envoy.close()
        await back_end.stop(0)
        await grpc_server.stop(0)


async def test_we_and_envoy_agree_or_differ_for_a_reason(both: tuple[Http, Http]) -> None:
    ours, theirs = both
    served = 0
    unexplained = []
    for request in Generator(SEED).requests(REQUESTS):
        our, their = await ours.ask(request), await theirs.ask(request)
        served += our.status == their.status == 200
        if str(our) != str(their) and not any(each.applies(request, our, their) for each in EXPLAINED):
            unexplained.append(f"{request}\n  ours   {our} {our.message}\n  theirs {their}")
    assert not unexplained, "\n".join(unexplained)
    # Neither is a fence that lets nothing through.
    assert served > REQUESTS / 2
    # The reasons are as good as their examples.
    for each in EXPLAINED:
        our, their = await ours.ask(each.example), await theirs.ask(each.example)
        assert (str(our), str(their)) == (each.ours, each.theirs), each.reason
        assert each.applies(each.example, our, their), each.reason
