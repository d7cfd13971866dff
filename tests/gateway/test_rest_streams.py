"""REST server streams: lines of JSON, server-sent events, raw bytes; on the bus in memory and on a real nats-server."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from google.api.httpbody_pb2 import HttpBody
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode
from grpc_status import rpc_status

from gateway.stream_formats import json_format
from tests.gateway.asgi import Client
from tests.gateway.streaming import Context, Item, Items, serve
from tests.gateway.worlds import World

EVENTS = {"accept": "text/event-stream"}


@pytest.fixture
async def start(world: World) -> AsyncIterator[Callable[..., Any]]:
    """Starts a back-end with these methods, and a gateway with these options."""
    servers = []

    async def start(options: dict[str, Any] | None = None, **methods: Any) -> Client:
        servers.append(await serve(await world.connection(), world.prefix, **methods))
        return await world.ready_gateway(**(options or {}))

    yield start
    for server in servers:
        await server.stop(0)


async def count(request: Any, context: Context) -> Items:
    for number in range(1, int(request.text) + 1):
        yield Item(text=f"{number}\r\n\u2028", number=number)


def lines(body: bytes) -> list[Any]:
    assert body == b"" or body.endswith(b"\n")
    return [json.loads(line) for line in body.split(b"\n")[:-1]]


def events(body: bytes) -> list[dict[str, str]]:
    """Parse server-sent events as HTML says, comments included."""
    found: list[dict[str, str]] = []
    assert body.endswith(b"\n\n")
    for block in body.decode()[:-2].split("\n\n"):
        event: dict[str, str] = {}
        for line in block.split("\n"):
            name, _, value = line.partition(":")
            event[name] = value.removeprefix(" ")
        found.append(event)
    return found


async def test_lines_of_json(start: Callable[..., Any]) -> None:
    client = await start(tell=count)
    for answer in (await client.get("/v1/tell/3"), await client.post("/v1/tell", json={"text": "3"})):
        assert answer.status == 200
        assert answer.header("content-type") == "application/x-ndjson"
        assert answer.header("cache-control") == "no-store"
        assert answer.header("content-length") is None
        assert answer.header("x-request-id")
        assert lines(answer.body) == [{"text": f"{n}\r\n\u2028", "number": str(n)} for n in (1, 2, 3)]
    answer = await client.get("/v1/tell/0")
    assert (answer.status, answer.header("content-type"), answer.body) == (200, "application/x-ndjson", b"")


async def test_response_body(start: Callable[..., Any]) -> None:
    async def tell(request: Any, context: Context) -> Items:
        yield Item(number=1, inner=Item(text="a"))
        yield Item(number=2)

    client = await start(tell=tell)
    assert lines((await client.get("/v1/inner/x")).body) == [{"text": "a"}, {}]
    assert lines((await client.get("/v1/numbers/x")).body) == ["1", "2"]


async def test_requests_are_checked_like_any_other(start: Callable[..., Any]) -> None:
    client = await start(tell=count)
    answer = await client.get("/v1/tell/3?nope=1")
    assert (answer.status, answer.json["code"]) == (400, 3)
    answer = await client.post("/v1/tell", b"{", headers={"content-type": "application/json"})
    assert (answer.status, answer.json["code"]) == (400, 3)
    answer = await client.post("/v1/tell", b"{}", headers={"content-encoding": "x-other"})
    assert answer.status == 415
    answer = await client.post("/v1/tell", b"x", headers={"content-length": "99999999999"})
    assert answer.status == 413


@pytest.mark.parametrize(
    ("accept", "is_events"),
    [
        ("text/event-stream", True),
        ("TEXT/Event-Stream; charset=utf-8", True),
        ("application/json, text/event-stream;q=0.5", True),
        ("application/x-ndjson, text/event-stream", True),
        ("application/x-ndjson, text/event-stream;q=0.5", False),
        ("text/event-stream;q=0", False),
        ("text/event-stream;q=x", False),
        ("*/*", False),
        ("text/*", False),
        ("application/json", False),
        ("", False),
    ],
)
def test_accept(accept: str, is_events: bool) -> None:
    style = json_format([(b"x-other", b"text/event-stream"), (b"accept", accept.encode())])
    assert style.content_type == (b"text/event-stream" if is_events else b"application/x-ndjson")


def test_several_accept_headers_are_one() -> None:
    headers = [(b"accept", b"application/json"), (b"accept", b"text/event-stream")]
    assert json_format(headers).content_type == b"text/event-stream"


async def test_events(start: Callable[..., Any]) -> None:
    async def tell(request: Any, context: Context) -> Items:
        context.set_trailing_metadata([("x-trail", "a"), ("x-trail", "b"), ("x-some-bin", b"\xff")])
        yield Item(text="\r\n", number=1)
        yield Item()

    client = await start(tell=tell)
    answer = await client.get("/v1/tell/x", headers=EVENTS)
    assert answer.header("content-type") == "text/event-stream"
    assert answer.header("trailer-x-trail") is None
    first, second, end = events(answer.body)
    assert (first["id"], json.loads(first["data"])) == ("1", {"text": "\r\n", "number": "1"})
    assert (second["id"], second["data"]) == ("2", "{}")
    assert (end["event"], json.loads(end["data"])) == ("end", {"x-trail": ["a", "b"], "x-some-bin": ["/w"]})
    # When the gateway has gone, its clients do not all come back in the same instant.
    assert 2000 <= int(first["retry"]) <= 4000
    assert "retry" not in second
    assert answer.body.startswith(b"retry: ")


async def test_a_client_that_comes_back_says_where_it_was(start: Callable[..., Any]) -> None:
    async def tell(request: Any, context: Context) -> Items:
        yield Item(text=str(dict(context.invocation_metadata() or ()).get("last-event-id")))

    client = await start(tell=tell)
    (event, _) = events((await client.get("/v1/tell/x", headers={**EVENTS, "last-event-id": "41"})).body)
    assert (event["id"], json.loads(event["data"])) == ("42", {"text": "41"})
    for nonsense in ("x", "-1", "9" * 30):
        (event, _) = events((await client.get("/v1/tell/x", headers={**EVENTS, "last-event-id": nonsense})).body)
        assert event["id"] == "1"


async def test_an_error_before_the_first_message_has_its_status(start: Callable[..., Any]) -> None:
    async def tell(request: Any, context: Context) -> Items:
        await context.send_initial_metadata([("x-lead", "1")])
        status = status_pb2.Status(code=StatusCode.NOT_FOUND.value[0], message="no such thing ä")
        status.details.add().Pack(error_details_pb2.ErrorInfo(reason="GONE"))
        context.set_trailing_metadata([("x-trail", "t")])
        await context.abort_with_status(rpc_status.to_status(status))
        yield Item()

    client = await start(tell=tell)
    for headers in ({}, EVENTS):
        answer = await client.get("/v1/tell/x", headers=headers)
        assert answer.status == 404
        assert answer.json["message"] == "no such thing ä"
        assert answer.json["details"][0]["reason"] == "GONE"


async def test_a_later_error_is_told_in_the_stream(start: Callable[..., Any]) -> None:
    async def tell(request: Any, context: Context) -> Items:
        yield Item(number=1)
        status = status_pb2.Status(code=StatusCode.DATA_LOSS.value[0], message="the rest\nis gone")
        status.details.add().Pack(error_details_pb2.ErrorInfo(reason="GONE"))
        await context.abort_with_status(rpc_status.to_status(status))

    client = await start(tell=tell)
    answer = await client.get("/v1/tell/x")
    first, last = lines(answer.body)
    expected = {
        "code": 15,
        "message": "the rest\nis gone",
        "details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "GONE"}],
    }
    assert (answer.status, first, last) == (200, {"number": "1"}, {"error": expected})
    answer = await client.get("/v1/tell/x", headers=EVENTS)
    _, error = events(answer.body)
    assert (error["event"], json.loads(error["data"])) == ("error", expected)


async def test_a_bug_in_a_service_is_told_without_its_text(start: Callable[..., Any]) -> None:
    async def tell(request: Any, context: Context) -> Items:
        yield Item(number=1)
        raise RuntimeError("secret")

    client = await start(tell=tell)
    answer = await client.get("/v1/tell/x")
    assert lines(answer.body)[1]["error"]["code"] == 2
    assert b"secret" not in answer.body


async def test_a_message_that_does_not_fit(start: Callable[..., Any]) -> None:
    stopped = asyncio.Event()

    async def tell(request: Any, context: Context) -> Items:
        try:
            if request.text == "late":
                yield Item(number=1)
            yield b"\xff\xff"
            await asyncio.Event().wait()
        finally:
            stopped.set()

    client = await start(tell=tell)
    answer = await client.get("/v1/tell/early")
    assert (answer.status, answer.json["code"]) == (500, 13)
    await asyncio.wait_for(stopped.wait(), 5)
    stopped.clear()
    answer = await client.get("/v1/tell/late")
    assert (answer.status, lines(answer.body)[1]["error"]["code"]) == (200, 13)
    await asyncio.wait_for(stopped.wait(), 5)


async def test_raw_bytes(start: Callable[..., Any]) -> None:
    async def download(request: Any, context: Context) -> Items:
        await context.send_initial_metadata([("content-disposition", "attachment")])
        if request.text == "nothing":
            return
        await asyncio.sleep(0.05)  # The head waits: only a message knows the content type.
        for part in (b"\x00\xff", b"", b"end"):
            yield HttpBody(content_type="image/png", data=part)
        yield HttpBody(content_type="text/html", data=b"!")

    client = await start(download=download)
    answer = await client.get("/v1/download/x", headers=EVENTS)
    assert (answer.status, answer.header("content-type"), answer.body) == (200, "image/png", b"\x00\xffend!")
    assert answer.header("content-disposition") == "attachment"
    answer = await client.get("/v1/download/nothing")
    assert (answer.status, answer.header("content-type"), answer.body) == (200, "application/octet-stream", b"")


async def test_raw_bytes_are_cut_off_when_the_service_fails(
    start: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def download(request: Any, context: Context) -> Items:
        if request.text == "late":
            yield HttpBody(content_type="text/plain", data=b"half of")
        await context.abort(StatusCode.DATA_LOSS, "the rest is gone")

    client = await start(download=download)
    assert (await client.get("/v1/download/early")).json["message"] == "the rest is gone"
    with caplog.at_level(logging.WARNING, "gateway"):
        conversation = client.open("GET", "/v1/download/late")
        assert (await conversation.head()).status == 200
        assert await conversation.rest() == b"half of"
    assert not conversation.complete
    assert "cut off" in caplog.text


async def test_initial_metadata_is_answered_before_there_is_a_message(start: Callable[..., Any]) -> None:
    go_on = asyncio.Event()

    async def tell(request: Any, context: Context) -> Items:
        await context.send_initial_metadata([("x-lead", "1"), ("x-some-bin", b"\xff")])
        await go_on.wait()
        yield Item(number=1)

    client = await start(tell=tell)
    for headers in ({}, EVENTS):
        go_on.clear()
        conversation = client.open("GET", "/v1/tell/x", headers=headers)
        head = await conversation.head()
        assert (head.status, head.header("x-lead"), head.header("x-some-bin")) == (200, "1", "/w")
        go_on.set()
        assert b'{"number":"1"}' in await conversation.rest()


async def test_heartbeats(start: Callable[..., Any]) -> None:
    go_on = asyncio.Event()

    async def tell(request: Any, context: Context) -> Items:
        if request.text == "late":
            yield Item(number=1)
        await go_on.wait()
        yield Item(number=2)

    client = await start({"heartbeat": 0.05}, tell=tell)
    for text in ("early", "late"):
        go_on.clear()
        conversation = client.open("GET", f"/v1/tell/{text}", headers=EVENTS)
        assert (await conversation.head()).status == 200
        if text == "late":
            first = await conversation.part() or b""
            assert first.endswith(b'\nid: 1\ndata: {"number":"1"}\n\n')
        else:
            first = await conversation.part() or b""
            assert first.endswith(b"\n:\n\n")
        assert first.startswith(b"retry: ")
        for _ in range(3):
            assert await conversation.part() == b":\n\n"
        go_on.set()
        rest = await conversation.rest()
        assert b'{"number":"2"}' in rest
        assert rest.endswith(b"event: end\ndata: {}\n\n")
    # Lines of JSON have no comments.
    go_on.clear()
    conversation = client.open("GET", "/v1/tell/late")
    await conversation.head()
    assert await conversation.part() == b'{"number":"1"}\n'
    with pytest.raises(TimeoutError):
        await conversation.part(timeout=0.2)
    conversation.hang_up()


@pytest.mark.parametrize("headers", [{}, EVENTS], ids=["lines", "events"])
@pytest.mark.parametrize("text", ["silent", "talking"])
async def test_a_client_that_hangs_up_stops_the_handler(
    start: Callable[..., Any], headers: dict[str, str], text: str
) -> None:
    started, stopped = asyncio.Event(), asyncio.Event()

    async def tell(request: Any, context: Context) -> Items:
        started.set()
        try:
            while True:
                if request.text == "talking":
                    yield Item(number=1)
                await asyncio.sleep(0.01)
        finally:
            stopped.set()

    client = await start(tell=tell)
    conversation = client.open("GET", f"/v1/tell/{text}", headers=headers)
    await asyncio.wait_for(started.wait(), 5)
    if text == "talking":
        await conversation.head()
        await conversation.part()
    conversation.hang_up()
    await asyncio.wait_for(stopped.wait(), 1)
    await asyncio.wait_for(conversation.task, 1)


async def test_deadlines(start: Callable[..., Any]) -> None:
    stopped = asyncio.Event()
    remaining: list[float | None] = []

    async def tell(request: Any, context: Context) -> Items:
        remaining.append(context.time_remaining())
        try:
            if request.text == "late":
                yield Item(number=1)
            await asyncio.Event().wait()
        finally:
            stopped.set()

    client = await start(tell=tell)
    answer = await client.get("/v1/tell/early", headers={"grpc-timeout": "100m"})
    assert (answer.status, answer.json["code"]) == (504, 4)
    await asyncio.wait_for(stopped.wait(), 5)
    stopped.clear()
    answer = await client.get("/v1/tell/late", headers={"connect-timeout-ms": "100"})
    assert (answer.status, lines(answer.body)[-1]["error"]["code"]) == (200, 4)
    await asyncio.wait_for(stopped.wait(), 5)
    # Who asks for none has none: streams may be meant to last.
    conversation = client.open("GET", "/v1/tell/late")
    await conversation.part() if await conversation.head() else None
    assert remaining[-1] is None
    conversation.hang_up()


async def test_the_operator_may_bound_streams(start: Callable[..., Any]) -> None:
    async def tell(request: Any, context: Context) -> Items:
        yield Item(number=1)
        await asyncio.Event().wait()

    client = await start({"stream_timeout": 0.2}, tell=tell)
    for headers in ({}, {"grpc-timeout": "60S"}):
        answer = await client.get("/v1/tell/x", headers=headers)
        assert lines(answer.body)[-1]["error"]["code"] == 4


async def test_a_reader_that_stops_stops_the_service(start: Callable[..., Any]) -> None:
    sent = 0

    async def tell(request: Any, context: Context) -> Items:
        nonlocal sent
        for _ in range(200):
            yield Item(data=bytes(50_000))
            sent += 1

    client = await start(tell=tell)
    conversation = client.open("GET", "/v1/tell/x")
    await conversation.head()

    async def settled() -> int:
        last = -1
        while sent != last:
            last = sent
            await asyncio.sleep(0.2)
        return last

    # A window of 1 MiB on its way, and a few messages in the hands of those who carry them.
    assert await settled() < 40
    for _ in range(30):
        await conversation.part()
    assert 30 < await settled() < 70
    assert (await conversation.rest()).count(b"\n") == 170
    assert sent == 200


async def test_head_requests_start_no_stream(start: Callable[..., Any]) -> None:
    client = await start(tell=count)
    answer = await client.request("HEAD", "/v1/tell/nonsense", headers=EVENTS)
    assert (answer.status, answer.header("content-type"), answer.body) == (200, "text/event-stream", b"")


async def test_streams_of_requests_are_for_other_protocols(start: Callable[..., Any]) -> None:
    client = await start(tell=count)
    for name in ("Gather", "Talk"):
        answer = await client.post(f"/v1/{name.lower()}", json={})
        assert (answer.status, answer.json["code"]) == (501, 12)
        assert f"call POST /streams.v1.Streams/{name} by Connect" in answer.json["message"]


async def test_a_method_that_nobody_serves(start: Callable[..., Any]) -> None:
    async def ask(request: Any, context: Context) -> Any:
        return request

    client = await start(ask=ask)
    answer = await client.get("/v1/tell/x")
    assert (answer.status, answer.json["code"]) == (501, 12)


async def test_streams_at_once_do_not_disturb_each_other(start: Callable[..., Any]) -> None:
    client = await start(tell=count)
    answers = await asyncio.gather(*(client.get(f"/v1/tell/{number}") for number in range(30)))
    assert [len(lines(answer.body)) for answer in answers] == list(range(30))


async def test_a_service_that_goes_away(world: World) -> None:
    started = asyncio.Event()

    async def tell(request: Any, context: Context) -> Items:
        yield Item(number=1)
        started.set()
        await asyncio.Event().wait()

    server = await serve(await world.connection(), world.prefix, tell=tell)
    client = await world.ready_gateway()
    conversation = client.open("GET", "/v1/tell/x")
    await started.wait()
    await server.stop(0)
    await conversation.head()
    assert lines(await conversation.rest())[-1]["error"]["code"] == 14
    assert (await client.get("/v1/tell/x")).status == 503


async def test_the_numbers_of_streams(start: Callable[..., Any]) -> None:
    client = await start(tell=count)
    await client.get("/v1/tell/3")
    assert (await client.get("/v1/tell/3?nope=1")).status == 400
    metrics = (await client.get("/metrics")).body.decode()
    assert 'http_route="/v1/tell/{text}"' in metrics
    assert 'rpc_method="streams.v1.Streams/Tell"' in metrics
