"""Photos and their thumbnailer on a real broker: what is answered when, and what becomes of bad photos."""

import asyncio
import io
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import pytest
from google.api import httpbody_pb2
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode
from PIL import Image

import rpc
from photos.v1 import photos_pb2, photos_pb2_grpc, thumbnailer_pb2, thumbnailer_pb2_grpc
from services.photo_thumbnails import PhotoThumbnailer
from services.photos import Photos
from tests.services import images

Photo = photos_pb2.Photo
PENDING, READY, FAILED = Photo.STATE_PENDING, Photo.STATE_READY, Photo.STATE_FAILED


@pytest.fixture
async def connection(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[rpc.Connection]:
    """A mesh of its own."""
    monkeypatch.setenv("NATSMESH_PREFIX", f"t{secrets.token_hex(4)}")
    connection = await rpc.connect(nats_url)
    yield connection
    await connection.close()


@pytest.fixture
async def channel(connection: rpc.Connection) -> AsyncIterator[rpc.Channel]:
    async with rpc.Channel(connection) as channel:
        yield channel


@pytest.fixture
async def photos(connection: rpc.Connection, channel: rpc.Channel) -> AsyncIterator[photos_pb2_grpc.PhotosStub]:
    server = rpc.Server(connection)
    photos_pb2_grpc.add_PhotosServicer_to_server(Photos(), server)
    await server.start()
    yield photos_pb2_grpc.PhotosStub(channel)
    await server.stop(None)


@pytest.fixture
async def thumbnailer(connection: rpc.Connection) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Starts a thumbnailer."""
    servers: list[rpc.Server] = []

    async def start() -> None:
        server = rpc.Server(connection)
        thumbnailer_pb2_grpc.add_ThumbnailerServicer_to_server(PhotoThumbnailer(), server)
        await server.start()
        servers.append(server)

    yield start
    for server in servers:
        await server.stop(None)


def create(data: bytes, **fields: object) -> photos_pb2.CreatePhotoRequest:
    return photos_pb2.CreatePhotoRequest(image=httpbody_pb2.HttpBody(data=data), **fields)


async def refusal(call: Awaitable[object]) -> tuple[StatusCode, str, error_details_pb2.RetryInfo | None]:
    """How a call failed: code, text, and when to try again."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    retry = None
    for key, value in caught.value.trailing_metadata():
        if key == "grpc-status-details-bin":
            retry = error_details_pb2.RetryInfo()
            assert status_pb2.Status.FromString(value).details[0].Unpack(retry)
    return caught.value.code(), caught.value.details(), retry


async def settled(photos: photos_pb2_grpc.PhotosStub, photo_id: str) -> photos_pb2.Photo:
    limit = time.monotonic() + 10
    while (photo := await photos.GetPhoto(photos_pb2.GetPhotoRequest(id=photo_id), timeout=5)).state == PENDING:
        assert time.monotonic() < limit
        await asyncio.sleep(0.02)
    return photo


async def test_a_photo_is_answered_at_once_and_gets_its_thumbnails_later(
    photos: photos_pb2_grpc.PhotosStub, channel: rpc.Channel, thumbnailer: Callable[[], Awaitable[None]]
) -> None:
    data = images.encode(images.quarters(2000, 1500), "JPEG")
    photo = await photos.CreatePhoto(create(data), timeout=5)
    assert (photo.content_type, photo.size_bytes, photo.width, photo.height) == ("image/jpeg", len(data), 2000, 1500)
    assert (list(photo.sizes), list(photo.ready_sizes), photo.state) == ([64, 256, 1024], [], PENDING)
    assert photo.create_time.seconds > 1.7e9
    assert await photos.GetPhoto(photos_pb2.GetPhotoRequest(id=photo.id), timeout=5) == photo
    code, text, retry = await refusal(photos.GetThumbnail(photos_pb2.GetThumbnailRequest(id=photo.id, size=64)))
    assert (code, text) == (StatusCode.NOT_FOUND, "the thumbnail is not ready yet; ask again")
    assert retry is not None
    assert retry.retry_delay.seconds == 1
    original = await photos.GetOriginal(photos_pb2.GetOriginalRequest(id=photo.id), timeout=5)
    assert (original.content_type, original.data) == ("image/jpeg", data)

    await thumbnailer()
    operations = operations_pb2_grpc.OperationsStub(channel)
    done = await operations.WaitOperation(operations_pb2.WaitOperationRequest(name=photo.operation), timeout=10)
    response, progress = thumbnailer_pb2.CreateThumbnailsResponse(), thumbnailer_pb2.CreateThumbnailsProgress()
    assert done.response.Unpack(response)
    assert (response.photo_id, list(response.sizes)) == (photo.id, [64, 256, 1024])
    assert done.metadata.Unpack(progress)
    assert (progress.sizes_done, progress.sizes_total) == (3, 3)
    photo = await photos.GetPhoto(photos_pb2.GetPhotoRequest(id=photo.id), timeout=5)
    assert (list(photo.ready_sizes), photo.state) == ([64, 256, 1024], READY)
    for size, expected in ((64, (64, 48)), (256, (256, 192)), (1024, (1024, 768))):
        body = await photos.GetThumbnail(photos_pb2.GetThumbnailRequest(id=photo.id, size=size), timeout=5)
        made = images.decode(body.data)
        assert (body.content_type, made.format, made.size) == ("image/jpeg", "JPEG", expected)
        assert images.corners(made) == [images.RED, images.GREEN, images.BLUE, images.WHITE]


async def test_sizes_may_be_chosen(
    photos: photos_pb2_grpc.PhotosStub, thumbnailer: Callable[[], Awaitable[None]]
) -> None:
    await thumbnailer()
    data = images.encode(images.quarters(300, 600), "PNG")
    photo = await photos.CreatePhoto(create(data, sizes=[100, 50, 100]), timeout=5)
    assert list((await settled(photos, photo.id)).ready_sizes) == [50, 100]
    body = await photos.GetThumbnail(photos_pb2.GetThumbnailRequest(id=photo.id, size=50), timeout=5)
    assert (body.content_type, images.decode(body.data).size) == ("image/png", (25, 50))


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (create(b""), "image: it is empty"),
        (create(b"Dear Sir or Madam,"), "image: not a JPEG, PNG or WebP file"),
        (create(images.bomb(30000, 30000)), "image: it has more than 64 million pixels"),
        (create(images.encode(images.quarters(), "PNG"), sizes=[0]), "sizes: 0 is not from 1 to 4096"),
        (create(images.encode(images.quarters(), "PNG"), sizes=range(1, 10)), "sizes: 9 are wanted"),
        (create(images.encode(images.quarters(), "PNG"), request_id="x" * 129), "request_id: it has more than"),
    ],
    ids=["empty", "text", "bomb", "size", "sizes", "request id"],
)
async def test_what_is_no_photo_is_refused(
    photos: photos_pb2_grpc.PhotosStub, request_: photos_pb2.CreatePhotoRequest, reason: str
) -> None:
    code, text, _ = await refusal(photos.CreatePhoto(request_, timeout=5))
    assert code is StatusCode.INVALID_ARGUMENT
    assert text.startswith(reason)


async def test_what_is_unknown_is_not_found(photos: photos_pb2_grpc.PhotosStub) -> None:
    for photo_id in ("", "1", "a" * 32, "../" * 100, "*", ">"):
        for call in (
            photos.GetPhoto(photos_pb2.GetPhotoRequest(id=photo_id)),
            photos.GetOriginal(photos_pb2.GetOriginalRequest(id=photo_id)),
            photos.GetThumbnail(photos_pb2.GetThumbnailRequest(id=photo_id, size=64)),
        ):
            code, text, retry = await refusal(call)
            assert (code, retry) == (StatusCode.NOT_FOUND, None)
            assert text.startswith("id: there is no photo")
    photo = await photos.CreatePhoto(create(images.encode(images.quarters(), "PNG")), timeout=5)
    code, text, retry = await refusal(photos.GetThumbnail(photos_pb2.GetThumbnailRequest(id=photo.id, size=65)))
    assert (code, text, retry) == (
        StatusCode.NOT_FOUND,
        "size: this photo has thumbnails of 64, 256, 1024 pixels",
        None,
    )


async def test_damage_deep_inside_is_told_when_it_is_found(
    photos: photos_pb2_grpc.PhotosStub, thumbnailer: Callable[[], Awaitable[None]]
) -> None:
    await thumbnailer()
    data = images.encode(images.quarters(), "PNG")
    photo = await settled(photos, (await photos.CreatePhoto(create(data[:-900]), timeout=5)).id)
    assert photo.state == FAILED
    assert photo.error.code == StatusCode.INVALID_ARGUMENT.value[0]
    assert photo.error.message.startswith("image: the PNG file is truncated")
    code, text, retry = await refusal(photos.GetThumbnail(photos_pb2.GetThumbnailRequest(id=photo.id, size=64)))
    assert (code, retry) == (StatusCode.FAILED_PRECONDITION, None)
    assert text.startswith("the thumbnail could not be made: image: the PNG file is truncated")


async def test_a_request_that_is_repeated_makes_one_photo(
    photos: photos_pb2_grpc.PhotosStub, channel: rpc.Channel, thumbnailer: Callable[[], Awaitable[None]]
) -> None:
    data, other = (images.encode(images.quarters(width), "PNG") for width in (640, 641))
    calls = [photos.CreatePhoto(create(data, request_id="r-1"), timeout=5) for _ in range(5)]
    answers = await asyncio.gather(*calls)
    assert len({photo.id for photo in answers}) == 1
    assert (await photos.CreatePhoto(create(other, request_id="r-1"), timeout=5)).id != answers[0].id
    assert (await photos.CreatePhoto(create(data), timeout=5)).id != answers[0].id
    operations = operations_pb2_grpc.OperationsStub(channel)
    listed = await operations.ListOperations(operations_pb2.ListOperationsRequest(name="operations"), timeout=5)
    assert len(listed.operations) == 3
    await thumbnailer()
    await settled(photos, answers[0].id)
    again = await photos.CreatePhoto(create(data, request_id="r-1"), timeout=5)
    assert (again.id, again.operation, again.state) == (answers[0].id, answers[0].operation, READY)


@pytest.mark.parametrize("photo_id", ["", "a" * 32, "../x"])
async def test_jobs_for_photos_that_are_not_there_fail_for_good(
    channel: rpc.Channel, thumbnailer: Callable[[], Awaitable[None]], photo_id: str
) -> None:
    await thumbnailer()
    order = thumbnailer_pb2.CreateThumbnailsRequest(photo_id=photo_id, sizes=[64])
    operation = await thumbnailer_pb2_grpc.ThumbnailerStub(channel).CreateThumbnails(order, timeout=5)
    operations = operations_pb2_grpc.OperationsStub(channel)
    done = await operations.WaitOperation(operations_pb2.WaitOperationRequest(name=operation.name), timeout=10)
    assert done.error.code == StatusCode.NOT_FOUND.value[0]
    assert f"there is no photo {photo_id!r}" in done.error.message


def test_a_small_photo_is_not_enlarged() -> None:
    from services.photo_thumbnails import thumbnail

    data, kind = thumbnail(images.encode(images.quarters(40, 30), "WEBP"), 1024)
    assert (kind, Image.open(io.BytesIO(data)).size) == ("image/webp", (40, 30))
