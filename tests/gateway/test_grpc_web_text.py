"""gRPC-Web as text (gRPC, "PROTOCOL-WEB"): base64 both ways, in one piece or in several."""

import base64
import gzip

import pytest

from tests.gateway.asgi import Answer
from tests.gateway.conftest import CannedGateway
from tests.gateway.streaming import Context, Item, Items, serve
from tests.gateway.worlds import World

GET_BOOK = "/library.v1.Library/GetBook"
TEXT = {"content-type": "application/grpc-web-text+proto"}


def envelope(data: bytes, flags: int = 0) -> bytes:
    return bytes([flags]) + len(data).to_bytes(4, "big") + data


def envelopes(answer: Answer) -> list[tuple[int, bytes]]:
    """What is in a response: texts that follow each other, each with its padding."""
    text, data = answer.body, b""
    while text:
        end = text.find(b"=")
        while end != -1 and text[end : end + 1] == b"=":
            end += 1
        end = len(text) if end == -1 else end
        data += base64.b64decode(text[:end], validate=True)
        text = text[end:]
    found: list[tuple[int, bytes]] = []
    while data:
        size = int.from_bytes(data[1:5], "big")
        found.append((data[0], data[5 : 5 + size]))
        data = data[5 + size :]
    return found


@pytest.mark.parametrize("content_type", ["application/grpc-web-text", "application/grpc-web-text+proto"])
async def test_a_call(canned: CannedGateway, content_type: str) -> None:
    canned.answer({"title": "T"})
    message = canned.messages.write("library.v1.GetBookRequest", {"name": "2"})
    body = base64.b64encode(envelope(message))
    answer = await canned.client.post(GET_BOOK, body, headers={"content-type": content_type})
    assert answer.status == 200
    assert (answer.header("content-type") or "").startswith("application/grpc-web-text")
    (flags, data), (end, trailers) = envelopes(answer)
    assert (flags, end) == (0, 0x80)
    assert canned.messages.read("library.v1.Book", data) == {"title": "T"}
    assert b"grpc-status: 0" in trailers
    assert canned.request() == {"name": "2"}


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 1000])
async def test_requests_come_in_pieces(canned: CannedGateway, size: int) -> None:
    """Of text, and of texts: the head of an envelope may be one, its message another."""
    message = canned.messages.write("library.v1.GetBookRequest", {"name": "abc"})
    whole = envelope(message)
    text = base64.b64encode(whole[:5]) + base64.b64encode(whole[5:])
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    answer = await canned.client.post(GET_BOOK, pieces, headers=TEXT)
    assert b"grpc-status: 0" in envelopes(answer)[-1][1]
    assert canned.request() == {"name": "abc"}


@pytest.mark.parametrize("body", [b"AAAA!AAA", b"AAAAA", b"=AAA", b"A=AA", b"\xff\xff\xff\xff"])
async def test_what_is_no_base64(canned: CannedGateway, body: bytes) -> None:
    answer = await canned.client.post(GET_BOOK, body, headers=TEXT)
    trailers = b"".join(data for _, data in envelopes(answer))
    assert answer.header("grpc-status") == "3" or b"grpc-status: 3" in trailers
    assert canned.calls == []


async def test_compressed_messages(canned: CannedGateway) -> None:
    canned.answer({"title": "x" * 5000})
    message = gzip.compress(canned.messages.write("library.v1.GetBookRequest", {"name": "2"}))
    headers = {**TEXT, "grpc-encoding": "gzip", "grpc-accept-encoding": "gzip"}
    answer = await canned.client.post(GET_BOOK, base64.b64encode(envelope(message, 1)), headers=headers)
    (flags, data), _ = envelopes(answer)
    assert flags == 1
    assert canned.messages.read("library.v1.Book", gzip.decompress(data)) == {"title": "x" * 5000}


async def test_a_stream(world: World) -> None:
    async def tell(request: Item, context: Context) -> Items:
        for number in range(1, request.number + 1):
            yield Item(number=number)

    server = await serve(await world.connection(), world.prefix, tell=tell)
    client = await world.ready_gateway()
    body = base64.b64encode(envelope(Item(number=3).SerializeToString()))
    answer = await client.post("/streams.v1.Streams/Tell", body, headers=TEXT)
    *messages, (_, trailers) = envelopes(answer)
    assert [Item.FromString(data).number for _, data in messages] == [1, 2, 3]
    assert b"grpc-status: 0" in trailers
    await server.stop(0)
