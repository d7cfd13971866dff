"""Forms: each part becomes a field of the request, or the error names it."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.config import Config
from gateway.multipart import MAX_PARTS, MAX_TEXT_BYTES
from tests.gateway.conftest import CannedGateway
from tests.gateway.contracts import compile_proto
from tests.gateway.processes import GatewayProcess

SCHEMA = compile_proto(
    """
    syntax = "proto3";
    package forms.v1;
    import "google/api/annotations.proto";
    import "google/api/httpbody.proto";
    import "google/protobuf/struct.proto";
    import "google/protobuf/timestamp.proto";
    import "google/protobuf/wrappers.proto";

    enum Colour { NONE = 0; RED = 1; }
    message Photo {
      string album = 1;
      string title = 2;
      int32 number = 3;
      bool public = 4;
      Colour colour = 5;
      google.protobuf.Timestamp taken_at = 6;
      google.protobuf.BoolValue wrapped = 7;
      repeated string tags = 8;
      bytes thumbnail = 9;
      google.api.HttpBody image = 10;
      repeated google.api.HttpBody extras = 11;
      repeated bytes chunks = 12;
      Photo nested = 13;
      map<string, string> labels = 14;
      google.protobuf.Struct data = 15;
      repeated Photo others = 16;
      oneof choice { string left = 17; bytes right = 18; }
    }
    message Request { string album = 1; Photo photo = 2; google.api.HttpBody file = 3; }

    service Photos {
      rpc Add(Photo) returns (Photo) {
        option (google.api.http) = {
          post: "/v1/photos" body: "*"
          additional_bindings { post: "/v1/albums/{album}/photos" body: "*" }
          additional_bindings { post: "/v1/nested/{nested.title}" body: "*" }
        };
      }
      rpc AddTo(Request) returns (Photo) {
        option (google.api.http) = {
          post: "/v1/to/{album}" body: "photo"
          additional_bindings { post: "/v1/in/{photo.album}" body: "photo" }
          additional_bindings { post: "/v1/raw" body: "file" }
          additional_bindings { post: "/v1/album" body: "album" }
        };
      }
    }
    """,
    "forms.proto",
)
SERVICE = "forms.v1.Photos"
TIME = "2026-01-02T03:04:05Z"
B = "boundary"


@pytest.fixture
async def photos() -> CannedGateway:
    return CannedGateway(SCHEMA, SERVICE, Config())


def part(name: str, data: bytes | str, *more: str, filename: str | None = None, content_type: str = "") -> bytes:
    disposition = f'content-disposition: form-data; name="{name}"'
    if filename is not None:
        disposition += f'; filename="{filename}"'
    lines = [disposition, *([f"content-type: {content_type}"] if content_type else []), *more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (data.encode() if isinstance(data, str) else data)


def form(*parts: bytes) -> bytes:
    return b"".join(b"--" + B.encode() + b"\r\n" + each + b"\r\n" for each in parts) + f"--{B}--\r\n".encode()


async def send(
    gateway: CannedGateway, target: str, *parts: bytes, content_type: str = f"multipart/form-data; boundary={B}"
) -> Any:
    return await gateway.client.post(target, form(*parts), headers={"content-type": content_type})


FILE = {"filename": "x.png", "content_type": "image/png"}

# Each row: target, parts, the request as JSON.
BOUND: list[tuple[str, list[bytes], dict[str, Any]]] = [
    ("/v1/photos", [], {}),
    ("/v1/photos", [part("title", "Ä\r\nb")], {"title": "Ä\r\nb"}),
    ("/v1/photos", [part("title", "")], {}),
    ("/v1/photos", [part("title", "a", content_type="text/plain; charset=utf-8")], {"title": "a"}),
    ("/v1/photos", [part("number", "-7"), part("public", "true")], {"number": -7, "public": True}),
    ("/v1/photos", [part("colour", "RED")], {"colour": "RED"}),
    ("/v1/photos", [part("taken_at", TIME), part("wrapped", "true")], {"takenAt": TIME, "wrapped": True}),
    ("/v1/photos", [part("takenAt", TIME)], {"takenAt": TIME}),
    ("/v1/photos", [part("tags", "a"), part("tags", "b")], {"tags": ["a", "b"]}),
    ("/v1/photos", [part("thumbnail", b"\x00\xff", filename="x")], {"thumbnail": "AP8="}),
    ("/v1/photos", [part("thumbnail", "AP8")], {"thumbnail": "AP8="}),
    ("/v1/photos", [part("chunks", b"a", filename="x"), part("chunks", "Yg==")], {"chunks": ["YQ==", "Yg=="]}),
    ("/v1/photos", [part("image", b"\x00\r\n--", **FILE)], {"image": {"contentType": "image/png", "data": "AA0KLS0="}}),
    ("/v1/photos", [part("image", "text")], {"image": {"data": "dGV4dA=="}}),
    (
        "/v1/photos",
        [part("extras", b"a", **FILE), part("extras", b"b", **FILE)],
        {"extras": [{"contentType": "image/png", "data": "YQ=="}, {"contentType": "image/png", "data": "Yg=="}]},
    ),
    ("/v1/photos", [part("image", b"", filename="")], {}),
    ("/v1/photos", [part("image", b"", filename="empty.txt")], {"image": {}}),
    ("/v1/photos", [part("nested.nested.title", "x")], {"nested": {"nested": {"title": "x"}}}),
    ("/v1/photos", [part("nested.thumbnail", b"x", filename="f")], {"nested": {"thumbnail": "eA=="}}),
    ("/v1/photos", [part("nested", '{"title": "x"}', content_type="application/json")], {"nested": {"title": "x"}}),
    (
        "/v1/photos",
        [
            part("others", b'{"number": 1}', filename="blob", content_type="application/json"),
            part("others", "{}", content_type="application/json; charset=utf-8"),
        ],
        {"others": [{"number": 1}, {}]},
    ),
    ("/v1/photos", [part("left", "x")], {"left": "x"}),
    ("/v1/photos", [part("left", "x"), part("right", b"y", filename="f")], {"right": "eQ=="}),
    ("/v1/albums/7/photos", [part("title", "x")], {"album": "7", "title": "x"}),
    ("/v1/nested/7", [part("nested.number", "1")], {"nested": {"title": "7", "number": 1}}),
    ("/v1/to/7", [part("title", "x")], {"album": "7", "photo": {"title": "x"}}),
    ("/v1/in/7", [part("title", "x")], {"photo": {"album": "7", "title": "x"}}),
]


@pytest.mark.parametrize(("target", "parts", "expected"), BOUND)
async def test_bound(photos: CannedGateway, target: str, parts: list[bytes], expected: dict[str, Any]) -> None:
    answer = await send(photos, target, *parts)
    assert answer.status == 200, answer
    assert photos.request() == expected


# Each row: target, parts, what the error says.
REFUSED: list[tuple[str, list[bytes], str]] = [
    ("/v1/photos", [part("nope", "x")], "part 'nope': forms.v1.Photo has no field 'nope'"),
    ("/v1/photos", [part("nested.nope", "x")], "part 'nested.nope'"),
    ("/v1/photos", [part("", "x")], "part ''"),
    ("/v1/photos", [part("number", "1.5")], "part 'number': expected an integer, got '1.5'"),
    ("/v1/photos", [part("title", "a"), part("title", "b")], "part 'title': stands twice"),
    ("/v1/photos", [part("takenAt", TIME), part("taken_at", TIME)], "stands twice"),
    ("/v1/photos", [part("title", b"\xff")], "part 'title': the text is not UTF-8"),
    ("/v1/photos", [part("title", b"x", filename="x.txt")], "part 'title': the field takes a text: send it without"),
    ("/v1/photos", [part("thumbnail", "not base64")], "part 'thumbnail': expected base64"),
    ("/v1/photos", [part("labels", "x")], "part 'labels': a map"),
    ("/v1/photos", [part("data", "x")], "part 'data'"),
    ("/v1/photos", [part("nested", "x")], "part 'nested': the field is a message"),
    ("/v1/photos", [part("nested", "{", content_type="application/json")], "part 'nested': the body is not valid JSON"),
    ("/v1/photos", [part("nested", '{"x": 1}', content_type="application/json")], "part 'nested': x: forms.v1.Photo"),
    ("/v1/photos", [part("title", "=41", "content-transfer-encoding: quoted-printable")], "part 'title'"),
    ("/v1/photos", [part("a" * 5000, "x")], "malformed"),
    ("/v1/photos", [b"x-no: disposition\r\n\r\nx"], "part 1 of the form has no content-disposition"),
    ("/v1/photos", [part("title", "a", *(f"x-{n}: 1" for n in range(20)))], "malformed"),
    ("/v1/photos", [part("title", "a" * (MAX_TEXT_BYTES + 1))], "part 'title': a text may have"),
    ("/v1/photos", [part("tags", "")] * (MAX_PARTS + 1), f"more than {MAX_PARTS} parts"),
    # What the path says, a form cannot change.
    ("/v1/albums/7/photos", [part("album", "8")], "part 'album': 'album' is taken from the path"),
    ("/v1/nested/7", [part("nested.title", "8")], "part 'nested.title': 'nested.title' is taken from the path"),
    ("/v1/to/7", [part("photo.title", "8")], "part 'photo.title'"),
    ("/v1/in/7", [part("album", "8")], "part 'album': 'album' is taken from the path"),
]


@pytest.mark.parametrize(("target", "parts", "message"), REFUSED)
async def test_refused(photos: CannedGateway, target: str, parts: list[bytes], message: str) -> None:
    answer = await send(photos, target, *parts)
    assert (answer.status, answer.json["code"]) == (400, 3)
    assert message in answer.json["message"]
    assert not photos.calls


async def test_json_around_what_the_path_says(photos: CannedGateway) -> None:
    answer = await send(
        photos, "/v1/nested/7", part("nested", '{"title": "8", "number": 1}', content_type="application/json")
    )
    assert (answer.status, photos.calls) == (400, [])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", ""),
        (b"x", "malformed"),
        (form(part("title", "a"))[:-6], "cut off in part 'title'"),
        (f"--{B}\r\n".encode(), "cut off"),
        (b"--other\r\n" + part("title", "a") + b"\r\n--other--\r\n", "malformed"),
    ],
)
async def test_malformed(photos: CannedGateway, body: bytes, message: str) -> None:
    answer = await photos.client.post(
        "/v1/photos", body, headers={"content-type": f"multipart/form-data; boundary={B}"}
    )
    if not body:  # Nothing at all is an empty message, whatever its type.
        assert answer.status == 200
    else:
        assert answer.status == 400
        assert message in answer.json["message"]


@pytest.mark.parametrize(
    "content_type",
    ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=" + "x" * 300],
)
async def test_boundaries(photos: CannedGateway, content_type: str) -> None:
    answer = await send(photos, "/v1/photos", part("title", "a"), content_type=content_type)
    assert answer.status == 400
    assert "oundary" in answer.json["message"]


async def test_where_forms_are_not_taken(photos: CannedGateway) -> None:
    assert (await send(photos, "/v1/album", part("album", "a"))).status == 415
    assert (await send(photos, "/v1/photos", content_type="multipart/mixed; boundary=x")).status == 415
    answer = await send(photos, "/v1/raw", part("album", "a"))
    assert answer.status == 200  # An HttpBody is any bytes, those of a form as well.
    assert photos.request()["file"]["contentType"].startswith("multipart/form-data")


async def test_unknown_parts_can_be_passed_over() -> None:
    photos = CannedGateway(SCHEMA, SERVICE, Config(ignore_unknown=True))
    assert (await send(photos, "/v1/photos", part("nope", b"\xff"), part("title", "a"))).status == 200
    assert photos.request() == {"title": "a"}


async def test_a_client_library_over_a_real_connection(tmp_path: Path, nats_url: str) -> None:
    import rpc
    from tests.gateway.backends import RawBackend

    connection = await rpc.connect(nats_url)
    backend = RawBackend(connection, SERVICE, SCHEMA, prefix="forms")
    await backend.start()
    gateway = GatewayProcess(tmp_path, nats_url, "forms", max_body=1024 * 1024).start(wait=False)
    try:
        await asyncio.to_thread(gateway.wait_ready)
        async with httpx.AsyncClient(base_url=gateway.url) as client:
            image = bytes(range(256)) * 1000
            answer = await client.post(
                "/v1/albums/a%20b/photos",
                data={"title": "Ä", "tags": ["x", "y"]},
                files={"image": ("x.png", image, "image/png"), "thumbnail": b"\r\n"},
            )
            assert answer.status_code == 200, answer.text
            photo = answer.json()
            assert (photo["album"], photo["title"], photo["tags"], photo["thumbnail"]) == (
                "a b",
                "Ä",
                ["x", "y"],
                "DQo=",
            )
            assert photo["image"]["contentType"] == "image/png"
            answer = await client.post("/v1/photos", files={"image": b"x" * 1024 * 1024})
            assert answer.status_code == 413
            assert "WARNING" not in gateway.log
    finally:
        gateway.close()
        await backend.stop()
        await connection.close()
