"""GET of methods without side effects: entity tags, conditions, cache-control, and what is kept."""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from gateway.config import Config, ConfigError
from gateway.filters.cache_options import CacheOptions
from gateway.filters.cache_store import CacheStore, Stored
from rpc import Call, StatusCode, StatusError
from tests.gateway.asgi import Answer
from tests.gateway.conftest import CannedGateway
from tests.gateway.contracts import library

BOOK = "/v1/shelves/1/books/2"
METADATA = [
    ("cache-control", "no-store"),
    ("cache-control", "private, max-age=60"),
    ("cache-control", "no-cache"),
    ("cache-control", "max-age=0"),
    ("cache-control", "max-age=sixty"),
    ("expires", "Tue, 24 Nov 2026 12:00:00 GMT"),
    ("vary", "*"),
    ("set-cookie", "a=b"),
]


def start(**options: Any) -> CannedGateway:
    gateway = CannedGateway(library(), "library.v1.Library", Config(cache=CacheOptions(**options)))
    gateway.answer({"name": "shelves/1/books/2", "title": "Dune"})
    return gateway


def with_metadata(gateway: CannedGateway, *metadata: tuple[str, str]) -> None:
    respond: Callable[[Call], None] = gateway.respond

    def respond_with_metadata(call: Call) -> None:
        respond(call)
        call.initial_metadata = metadata

    gateway.respond = respond_with_metadata


async def get(gateway: CannedGateway, target: str = BOOK, **headers: str) -> Answer:
    return await gateway.client.get(target, headers={name.replace("_", "-"): value for name, value in headers.items()})


async def test_a_tag_lets_a_client_ask_whether_it_is_still_the_same() -> None:
    gateway = start()
    first = await get(gateway)
    tag = first.header("etag")
    assert tag is not None
    assert first.status == 200
    assert first.header("cache-control") == "no-cache"
    for condition in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = await get(gateway, if_none_match=condition)
        assert (again.status, again.body) == (304, b""), condition
        assert again.header("etag") == tag
        assert again.header("cache-control") == "no-cache"
        assert again.header("x-request-id") is not None
        assert again.header("content-type") is None
        assert again.header("content-length") is None
    assert (await get(gateway, if_none_match='"other"')).json["title"] == "Dune"
    gateway.answer({"title": "Dune Messiah"})
    changed = await get(gateway, if_none_match=tag)
    assert (changed.status, changed.json["title"]) == (200, "Dune Messiah")
    assert changed.header("etag") != tag
    assert len(gateway.calls) == 7, "nothing is kept: no one has said for how long"


async def test_connect_get_has_tags_as_well() -> None:
    gateway = start(ttl=60)
    message = quote(json.dumps({"name": "shelves/1/books/2"}))
    target = f"/library.v1.Library/GetBook?connect=v1&encoding=json&message={message}"
    first = await get(gateway, target)
    assert first.json["title"] == "Dune"
    again = await get(gateway, target, if_none_match=str(first.header("etag")))
    assert again.status == 304
    assert again.header("cache-status") == "natsmesh; hit"
    assert len(gateway.calls) == 1


async def test_other_methods_are_left_alone() -> None:
    gateway = start(ttl=60)
    gateway.answer({})
    gateway.respond = lambda call: None
    for answer in (
        await get(gateway, "/v1/search?query=x"),
        await gateway.client.post("/library.v1.Library/GetBook", json={"name": "x"}),
    ):
        assert answer.status == 200
        assert answer.header("etag") is None
        assert answer.header("cache-control") is None


async def test_a_response_is_kept_as_long_as_the_operator_says() -> None:
    gateway = start(ttl=60, cache_control="max-age=10", vary=("X-Tenant",))
    first = await get(gateway)
    second = await get(gateway)
    assert len(gateway.calls) == 1
    assert (second.status, second.body) == (200, first.body)
    assert second.header("cache-status") == "natsmesh; hit"
    assert str(first.header("cache-status")).endswith("stored")
    assert second.header("age") == "0"
    assert second.header("x-request-id") != first.header("x-request-id")
    assert [name for name, _ in second.headers].count("x-request-id") == 1
    for name, value in (("etag", first.header("etag")), ("cache-control", "max-age=10"), ("vary", "x-tenant")):
        assert second.header(name) == first.header(name) == value


async def test_what_the_service_says_counts() -> None:
    gateway = start()
    with_metadata(gateway, ("cache-control", "max-age=60"), ("etag", '"v1"'), ("x-more", "1"))
    await get(gateway)
    kept = await get(gateway)
    assert len(gateway.calls) == 1
    assert kept.header("cache-control") == "max-age=60"
    assert kept.header("etag") == '"v1"'
    assert kept.header("x-more") == "1"
    assert (await get(gateway, if_none_match='"v1"')).status == 304


@pytest.mark.parametrize("metadata", METADATA, ids=" ".join)
async def test_what_the_service_wants_not_kept_is_not(metadata: tuple[str, str]) -> None:
    gateway = start(ttl=60)
    with_metadata(gateway, metadata)
    for _ in range(2):
        assert (await get(gateway)).header(metadata[0]) == metadata[1]
    assert len(gateway.calls) == 2


async def test_another_question_is_another_call() -> None:
    gateway = start(ttl=60)
    questions: list[tuple[str, dict[str, str]]] = [
        (BOOK, {}),
        ("/v1/shelves/1/books/3", {}),
        ("/v1/books/2", {}),
        (f"{BOOK}?mask=title", {}),
        (BOOK, {"x_tenant": "a"}),
        (BOOK, {"x_tenant": "b"}),
    ]
    for target, headers in questions:
        await get(gateway, target, **headers)
    assert len(gateway.calls) == len(questions)
    for target, headers in questions:
        await get(gateway, target, x_request_id="another", user_agent="another", **headers)
    assert len(gateway.calls) == len(questions), "what the service never sees makes no difference"


async def test_each_coding_is_kept_by_itself() -> None:
    gateway = start(ttl=60)
    gateway.answer({"title": "long " * 1000})
    plain, gzip = await get(gateway), await get(gateway, accept_encoding="gzip")
    assert gzip.header("content-encoding") == "gzip"
    assert gzip.header("etag") != plain.header("etag")
    again = await get(gateway, accept_encoding="gzip;q=0.9, identity;q=0.1")
    assert again.body == gzip.body
    assert again.header("content-encoding") == "gzip"
    assert (await get(gateway)).body == plain.body
    assert len(gateway.calls) == 2


@pytest.mark.parametrize("header", ["authorization", "cookie"])
async def test_what_is_for_one_caller_is_not_kept(header: str) -> None:
    gateway = start(ttl=60, cache_control="max-age=10")
    for _ in range(2):
        answer = await get(gateway, **{header: "me"})
        assert answer.header("cache-control") == "private, max-age=10"
    assert len(gateway.calls) == 2
    assert (await get(gateway, if_none_match=str(answer.header("etag")), **{header: "me"})).status == 304
    await get(gateway)
    assert len(gateway.calls) == 4, "and nobody else is given it"


async def test_the_operator_can_have_it_kept_for_each_caller() -> None:
    gateway = start(ttl=60, authorized=True)
    for caller in ("me", "you", "me", "you"):
        answer = await get(gateway, authorization=caller)
        assert answer.header("cache-control") == "private, no-cache"
    assert len(gateway.calls) == 2


async def test_errors_are_not_kept() -> None:
    gateway = start(ttl=60)
    gateway.fail(StatusError(StatusCode.NOT_FOUND, "no such book"))
    for _ in range(2):
        answer = await get(gateway, if_none_match="*")
        assert answer.status == 404
        assert answer.header("cache-control") == "no-store"
        assert answer.header("etag") is None
    assert len(gateway.calls) == 2
    refused = await get(gateway, grpc_timeout="soon")
    assert refused.status == 400


@pytest.mark.parametrize("wish", ["no-cache", "max-age=0", "no-store"])
async def test_clients_can_ask_anew(wish: str) -> None:
    gateway = start(ttl=60)
    await get(gateway)
    await get(gateway, cache_control=wish)
    assert len(gateway.calls) == 2
    await get(gateway)
    assert len(gateway.calls) == 2


async def test_a_large_body_passes() -> None:
    gateway = start(ttl=60, max_body=100)
    gateway.answer({"title": "x" * 200})
    for _ in range(2):
        answer = await get(gateway)
        assert answer.json["title"] == "x" * 200
        assert answer.header("etag") is None
    assert len(gateway.calls) == 2


async def test_head_is_answered_from_what_get_has_left() -> None:
    gateway = start(ttl=60)
    first = await get(gateway)
    head = await gateway.client.request("HEAD", BOOK)
    assert head.header("etag") == first.header("etag")
    assert len(gateway.calls) == 1


def stored(body: bytes = b"", until: float = 10.0) -> Stored:
    return Stored([], b'"t"', body, 0.0, until)


def test_the_store_is_bounded_in_number_bytes_and_time() -> None:
    store = CacheStore(max_entries=2, max_bytes=10_000)
    for key in "abc":
        store.put(key, stored(), 1)
        store.get("a", 0)
    assert store.get("b", 0) is None
    assert store.get("a", 9.9) is not None
    assert store.get("a", 10.0) is None, "too old"
    store.put("large", stored(bytes(9_000)), 5)
    assert store.get("c", 0) is None, "it had to make room"
    store.put("too large", stored(bytes(10_000)), 9)
    assert store.get("too large", 0) is None
    assert store.get("large", 0) is not None
    assert store.size <= 10_000
    store.put("large", stored(until=0.0), 5)
    assert store.get("large", 0) is None
    assert (len(store), store.size) == (0, 0)


@pytest.mark.parametrize(
    "options", [{"ttl": -1}, {"max_entries": -1}, {"vary": ("a b",)}, {"cache_control": "a\r\nb"}, {"max_body": -1}]
)
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        CacheOptions(**options)


@pytest.mark.parametrize("authorized", [False, True])
async def test_what_authentication_says_of_a_caller_counts(authorized: bool) -> None:
    gateway = start(ttl=60, authorized=authorized)
    unary = gateway.gateway._unary
    assert unary is not None
    claim = unary.headers.sealed("x-claim-sub").decode()  # As ``gateway.filters.auth`` passes it on.
    for caller in ("me", "you", "me", "you"):
        answer = await gateway.client.get(BOOK, headers={claim: caller})
        assert answer.header("cache-control") == "private, no-cache"
    assert len(gateway.calls) == (2 if authorized else 4)
    assert {dict(call.metadata)["x-claim-sub"] for call in gateway.calls} == {"me", "you"}
