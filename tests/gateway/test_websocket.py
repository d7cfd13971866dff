"""WebSockets by the ``websockets`` library, through a gateway process, to a back-end on a real nats-server."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from google.api.httpbody_pb2 import HttpBody
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode
from grpc_status import rpc_status

from tests.gateway.processes import GatewayProcess
from tests.gateway.sockets import JSON, PROTO, SERVICE, Context, Note, Notes, Sockets

TALK = f"/{SERVICE}/Talk"
TELL = f"/{SERVICE}/Tell"
GATHER = f"/{SERVICE}/Gather"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, nats_url: str) -> Iterator[GatewayProcess]:
    gateway = GatewayProcess(tmp_path_factory.mktemp("gateway"), nats_url, "sockets")
    yield gateway
    gateway.close()


@pytest.fixture
async def sockets(gateway: GatewayProcess, nats_url: str) -> AsyncIterator[Sockets]:
    sockets = Sockets(gateway, nats_url, "sockets")
    yield sockets
    await sockets.stop()


async def echo(requests: Notes, context: Context) -> Notes:
    async for note in requests:
        yield note


async def test_both_ways_at_once(sockets: Sockets) -> None:
    await sockets.start(talk=echo)
    async with sockets.talking(TALK) as talk:
        assert talk.socket.subprotocol is None
        assert talk.socket.response is not None
        assert talk.socket.response.headers["x-request-id"]
        for number in range(3):
            await talk.send({"text": "ä\r\n", "number": number})
            assert await talk.read() == ({"text": "ä\r\n", "number": str(number)} if number else {"text": "ä\r\n"})
        await talk.half_close()
        assert await talk.end() == ([], 1000, "")


async def test_protobuf(sockets: Sockets) -> None:
    await sockets.start(talk=echo)
    async with sockets.open(TALK, PROTO, JSON) as socket:
        assert socket.subprotocol == PROTO
        for note in (Note(text="a", data=b"\xff"), Note()):
            await socket.send(note.SerializeToString())
            assert Note.FromString(await socket.recv()) == note
        await socket.send("")
        await asyncio.wait_for(socket.wait_closed(), 5)
        assert socket.close_code == 1000


async def test_subprotocols(sockets: Sockets) -> None:
    await sockets.start(talk=echo)
    async with sockets.open(TALK, "other", JSON) as socket:
        assert socket.subprotocol == JSON
    status, error = await sockets.refusal(TALK, "other")
    assert (status, error["code"]) == (400, 3)
    assert JSON in error["message"]


async def test_a_stream_of_requests(sockets: Sockets) -> None:
    async def gather(requests: Notes, context: Context) -> Any:
        return Note(text="".join([note.text async for note in requests]))

    await sockets.start(gather=gather)
    async with sockets.talking(GATHER) as talk:
        await talk.send({"text": "a"}, {}, {"text": "b"})
        await talk.half_close()
        assert await talk.end() == ([{"text": "ab"}], 1000, "")
    async with sockets.talking(GATHER) as talk:
        await talk.half_close()
        assert await talk.end() == ([{}], 1000, "")


async def test_a_stream_of_responses(sockets: Sockets) -> None:
    async def tell(request: Any, context: Context) -> Notes:
        for number in range(1, 3):
            yield Note(text=request.text, number=number)

    await sockets.start(tell=tell)
    for half_close in (False, True):
        async with sockets.talking(TELL) as talk:
            await talk.send({"text": "x"})
            if half_close:
                await talk.half_close()
            expected = [{"text": "x", "number": "1"}, {"text": "x", "number": "2"}]
            assert await talk.end() == (expected, 1000, "")


async def test_rest_paths(sockets: Sockets) -> None:
    async def tell(request: Any, context: Context) -> Notes:
        yield request

    async def gather(requests: Notes, context: Context) -> Any:
        notes = [note async for note in requests]
        return Note(inner=Note(text=" ".join(f"{note.room}/{note.text}/{note.inner.text}" for note in notes)))

    await sockets.start(tell=tell, talk=echo, gather=gather)
    # No body: the URL says everything, and nothing need be sent.
    async with sockets.talking("/v1/rooms/a%20b/notes?text=x&number=7") as talk:
        assert await talk.end() == ([{"room": "a b", "text": "x", "number": "7"}], 1000, "")
    async with sockets.talking("/v1/tell") as talk:
        await talk.send({"room": "r"})
        assert await talk.end() == ([{"room": "r"}], 1000, "")
    # What the path says holds for every message.
    async with sockets.talking("/v1/rooms/7:talk") as talk:
        for value in ({"text": "a"}, {"text": "b", "room": "evil"}):
            await talk.send(value)
            assert await talk.read() == {"room": "7", "text": value["text"]}
    async with sockets.talking("/v1/rooms/7:gather?text=q") as talk:
        await talk.send({"text": "a"}, {"text": "b", "room": "evil"})
        await talk.half_close()
        assert await talk.end() == ([{"text": "7/q/a 7/q/b"}], 1000, "")


async def test_rest_paths_with_protobuf(sockets: Sockets) -> None:
    await sockets.start(talk=echo)
    async with sockets.open("/v1/rooms/7:talk", PROTO) as socket:
        await socket.send(Note(room="evil", text="a").SerializeToString())
        assert Note.FromString(await socket.recv()) == Note(room="7", text="a")
        await socket.send(b"\xff\xff")
        await asyncio.wait_for(socket.wait_closed(), 5)
        assert (socket.close_code, socket.close_reason[:30]) == (4003, "the message is no sockets.v1.N")


async def test_raw_bytes(sockets: Sockets) -> None:
    async def pipe(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        async for body in requests:
            yield HttpBody(data=body.content_type.encode() + b": " + body.data)

    await sockets.start(pipe=pipe)
    async with sockets.open("/v1/pipe") as socket:
        await socket.send(b"\x00\xff")
        assert await socket.recv() == b"application/octet-stream: \x00\xff"
        await socket.send("ä")
        assert await socket.recv() == "text/plain; charset=utf-8: ä".encode()
        await socket.send("")
        await asyncio.wait_for(socket.wait_closed(), 5)
        assert socket.close_code == 1000


async def test_errors(sockets: Sockets) -> None:
    async def talk(requests: Notes, context: Context) -> Notes:
        async for note in requests:
            yield note
            status = status_pb2.Status(code=StatusCode.NOT_FOUND.value[0], message="no such thing ä")
            status.details.add().Pack(error_details_pb2.ErrorInfo(reason="GONE"))
            await context.abort_with_status(rpc_status.to_status(status))

    async def tell(request: Any, context: Context) -> Notes:
        await context.abort(StatusCode.PERMISSION_DENIED, "ä" * 100)
        yield Note()

    async def gather(requests: Notes, context: Context) -> Any:
        raise RuntimeError("secret")

    await sockets.start(talk=talk, tell=tell, gather=gather)
    detail = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "GONE"}
    error = {"error": {"code": 5, "message": "no such thing ä", "details": [detail]}}
    async with sockets.talking(TALK) as talk_:
        await talk_.send({"number": 1})
        assert await talk_.end() == ([{"number": "1"}, error], 4005, "no such thing ä")
    async with sockets.talking(TALK, PROTO) as talk_:
        await talk_.socket.send(Note(number=1).SerializeToString())
        assert await talk_.end() == ([Note(number=1).SerializeToString(), error], 4005, "no such thing ä")
    async with sockets.talking(TELL) as talk_:
        await talk_.send({})
        messages, code, reason = await talk_.end()
        assert (messages, code) == ([{"error": {"code": 7, "message": "ä" * 100}}], 4007)
        assert reason == "ä" * 61  # As much as fits into a close frame, and no half characters.
    async with sockets.talking(GATHER) as talk_:
        messages, code, reason = await talk_.end()
        assert (messages[0]["error"]["code"], code) == (2, 4002)
        assert "secret" not in json.dumps([messages, reason])


@pytest.mark.parametrize(
    ("path", "subprotocol", "messages", "reason"),
    [
        (TALK, JSON, ["{"], "the body is not valid JSON"),
        (TALK, JSON, ['{"nope": 1}'], "nope: sockets.v1.Note has no such field"),
        (TALK, JSON, ["[" * 100], "the JSON body is nested deeper"),
        (TALK, JSON, [b"{}"], "this WebSocket carries JSON"),
        (TALK, PROTO, ["x"], "this WebSocket carries protobuf"),
        (TALK, JSON, ["{}", "", "{}"], "there was to be no more request"),
        (TELL, JSON, ["{}", "{}"], "there was to be no more request"),
        (TELL, JSON, [""], f"{SERVICE}.Tell"),
        (TELL, JSON, ["{"], "the body is not valid JSON"),
    ],
)
async def test_requests_that_do_not_fit(
    sockets: Sockets, path: str, subprotocol: str, messages: list[Any], reason: str
) -> None:
    stopped = asyncio.Event()

    async def talk(requests: Notes, context: Context) -> Notes:
        try:
            async for _ in requests:
                pass
            await asyncio.Event().wait()
            yield Note()
        finally:
            stopped.set()

    async def tell(request: Any, context: Context) -> Notes:
        await asyncio.Event().wait()
        yield Note()

    await sockets.start(talk=talk, tell=tell)
    stopped.clear()
    async with sockets.talking(path, subprotocol) as talk_:
        for message in messages:
            await talk_.socket.send(message)
        ((last,), code, text) = await talk_.end()
        assert (last["error"]["code"], code) == (3, 4003)
        assert last["error"]["message"].replace("/", ".").startswith(reason.replace("/", "."))
        assert last["error"]["message"].startswith(text)
    if path == TALK:
        await asyncio.wait_for(stopped.wait(), 5)


async def test_a_response_that_does_not_fit(sockets: Sockets) -> None:
    async def tell(request: Any, context: Context) -> Notes:
        yield b"\xff\xff"
        await asyncio.Event().wait()

    await sockets.start(tell=tell)
    async with sockets.talking(TELL) as talk:
        await talk.send({})
        ((last,), code, _) = await talk.end()
        assert (last["error"]["code"], code) == (13, 4013)


async def test_a_client_that_goes_cancels_its_call(sockets: Sockets) -> None:
    begun: asyncio.Queue[None] = asyncio.Queue()
    stopped: asyncio.Queue[None] = asyncio.Queue()

    async def talk(requests: Notes, context: Context) -> Notes:
        begun.put_nowait(None)
        try:
            async for _ in requests:
                yield Note()
            await asyncio.Event().wait()
        finally:
            stopped.put_nowait(None)

    await sockets.start(talk=talk)
    await begun.get()
    await stopped.get()
    for how in ("close", "close after half-close", "abort"):
        async with sockets.talking(TALK) as talk_:
            await talk_.send({})
            await talk_.read()
            await asyncio.wait_for(begun.get(), 5)
            if how == "close after half-close":
                await talk_.half_close()
            if how == "abort":
                talk_.socket.transport.abort()
            else:
                await talk_.socket.close()
            await asyncio.wait_for(stopped.get(), 5)


async def test_metadata(sockets: Sockets) -> None:
    async def tell(request: Any, context: Context) -> Notes:
        metadata = dict(context.invocation_metadata() or ())
        yield Note(text=f"{metadata.get('authorization')} {metadata.get('sec-websocket-key')}")

    await sockets.start(tell=tell)
    headers = {"authorization": "Bearer x"}
    async with sockets.talking("/v1/rooms/1/notes", additional_headers=headers) as talk:
        assert await talk.end() == ([{"text": "Bearer x None"}], 1000, "")
    # Pages cannot send headers: a token goes with the subprotocols.
    async with sockets.talking("/v1/rooms/1/notes", "natsmesh.bearer.a.b-c_d", JSON) as talk:
        assert talk.socket.subprotocol == JSON
        assert await talk.end() == ([{"text": "Bearer a.b-c_d None"}], 1000, "")
    async with sockets.talking("/v1/rooms/1/notes", "natsmesh.bearer.evil", JSON, additional_headers=headers) as talk:
        assert await talk.end() == ([{"text": "Bearer x None"}], 1000, "")


async def test_deadlines(sockets: Sockets) -> None:
    async def talk(requests: Notes, context: Context) -> Notes:
        yield Note(number=round(context.time_remaining() or 0))
        await asyncio.Event().wait()

    async def tell(request: Any, context: Context) -> Notes:
        yield Note()

    await sockets.start(talk=talk, tell=tell)
    async with sockets.talking(f"{TALK}?connect-timeout-ms=100") as talk_:
        messages, code, _ = await talk_.end()
        assert (messages[-1]["error"]["code"], code) == (4, 4004)
    async with sockets.talking(f"{TALK}?grpc-timeout=9S", additional_headers={"grpc-timeout": "20S"}) as talk_:
        assert (await talk_.read())["number"] == "9"
    async with sockets.talking("/v1/rooms/7:talk?grpc-timeout=9S") as talk_:
        assert (await talk_.read())["number"] == "9"
    # The time to send the request counts as well.
    async with sockets.talking(f"{TELL}?grpc-timeout=50m") as talk_:
        assert (await talk_.end())[1] == 4004
    for query in ("grpc-timeout=x", "connect-timeout-ms=-1", "grpc-timeout=%ff"):
        assert (await sockets.refusal(f"{TALK}?{query}"))[0] == 400


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/nope", 404, "no stream is served at /nope"),
        ("/v1/ask", 404, "no stream is served at /v1/ask"),
        ("/v1/nothing", 404, "no stream is served"),
        (f"/{SERVICE}/Ask", 404, "no stream is served"),
        ("/healthz", 404, "no stream is served"),
        (f"{TALK}?x=1", 400, "takes no query parameters"),
        ("/v1/rooms/7:talk?text=1", 400, "unknown query parameter 'text'"),
        ("/v1/rooms/7/notes?nope=1", 400, "unknown query parameter 'nope'"),
        ("/v1/rooms/7/notes?room=8", 400, "'room' is taken from the path"),
        ("/v1/rooms/%ff/notes", 400, "percent-escapes are not UTF-8"),
    ],
)
async def test_refused_before_it_is_open(sockets: Sockets, path: str, status: int, message: str) -> None:
    await sockets.start(talk=echo)
    answer = await sockets.refusal(path)
    assert answer[0] == status
    assert message in answer[1]["message"]


async def test_no_back_end(sockets: Sockets) -> None:
    await sockets.start(talk=echo)
    await sockets.stop()
    async with sockets.talking(TALK) as talk:
        ((last,), code, _) = await talk.end()
        assert (last["error"]["code"], code) == (14, 4014)


async def test_numbers(sockets: Sockets) -> None:
    await sockets.start(talk=echo)
    async with sockets.talking("/v1/rooms/7:talk") as talk:
        await talk.half_close()
        await talk.end()
    async with httpx.AsyncClient(base_url=sockets.gateway.url) as client, asyncio.timeout(5):
        wanted = ('http_route="/v1/rooms/{room}:talk"', 'http_response_status_code="101"')
        while not any(all(each in line for each in wanted) for line in (await client.get("/metrics")).text.split("\n")):
            await asyncio.sleep(0.05)


async def test_http_on_the_same_paths_is_what_it_was(sockets: Sockets) -> None:
    async def tell(request: Any, context: Context) -> Notes:
        yield request

    await sockets.start(tell=tell)
    async with httpx.AsyncClient(base_url=sockets.gateway.url) as client:
        assert (await client.get("/v1/rooms/7/notes")).text == '{"room":"7"}\n'
        answer = await client.post("/v1/rooms/7:talk", json={})
        assert (answer.status_code, answer.json()["code"]) == (501, 12)
        assert "WebSocket" in answer.json()["message"]
        assert (await client.request("WEBSOCKET", "/v1/rooms/7:talk")).status_code == 405
        assert (await client.request("websocket", "/v1/rooms/7:talk")).status_code == 405
