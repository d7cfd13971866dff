"""The thumbnailer as a service, on grpc.aio."""

import asyncio

import grpc
import pytest
from google.api import httpbody_pb2

from services import thumbnails
from tests.services import images
from thumbnail.v1 import thumbnail_pb2, thumbnail_pb2_grpc

SERVICES = [(thumbnail_pb2_grpc.add_ThumbnailerServicer_to_server, thumbnails.Thumbnailer)]


def request(data: bytes, content_type: str = "", **size: int) -> thumbnail_pb2.CreateThumbnailRequest:
    image = httpbody_pb2.HttpBody(content_type=content_type, data=data)
    return thumbnail_pb2.CreateThumbnailRequest(image=image, **size)


@pytest.fixture
def thumbnailer(channel: grpc.aio.Channel) -> thumbnail_pb2_grpc.ThumbnailerStub:
    return thumbnail_pb2_grpc.ThumbnailerStub(channel)


@pytest.mark.parametrize(
    ("name", "content_type"), [("JPEG", "image/jpeg"), ("PNG", "image/png"), ("WEBP", "image/webp")]
)
async def test_the_answer_is_an_image_of_the_same_type(
    thumbnailer: thumbnail_pb2_grpc.ThumbnailerStub, name: str, content_type: str
) -> None:
    data = images.encode(images.quarters(), name)
    body = await thumbnailer.CreateThumbnail(request(data, "text/plain", width=256), timeout=20)
    assert body.content_type == content_type
    assert images.decode(body.data).size == (256, 192)


async def test_the_height_counts_too(thumbnailer: thumbnail_pb2_grpc.ThumbnailerStub) -> None:
    data = images.encode(images.quarters(), "JPEG")
    body = await thumbnailer.CreateThumbnail(request(data, width=256, height=48), timeout=20)
    assert images.decode(body.data).size == (64, 48)


async def test_photos_of_real_size_in_parallel(thumbnailer: thumbnail_pb2_grpc.ThumbnailerStub) -> None:
    photo = images.photo(quality=75, exif=images.exif(6))
    assert len(photo) > 8_000_000
    calls = [thumbnailer.CreateThumbnail(request(photo, width=256), timeout=50) for _ in range(4)]
    assert [images.decode(body.data).size for body in await asyncio.gather(*calls)] == [(256, 384)] * 4


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (thumbnail_pb2.CreateThumbnailRequest(width=256), "image: it is empty"),
        (request(b"hello", "image/png", width=256), "image: not a JPEG, PNG or WebP file"),
        (request(images.encode(images.quarters(), "PNG")[:-900], width=256), "image: the PNG file is truncated"),
        (request(images.bomb(30000, 30000), width=256), "image: it has more than 64 million pixels"),
        (request(images.encode(images.quarters(), "PNG")), "width: 0 is not from 1 to 4096"),
        (request(images.encode(images.quarters(), "PNG"), width=9, height=0), "height: 0 is not from 1 to 4096"),
    ],
    ids=["empty", "text", "truncated", "bomb", "no width", "no height"],
)
async def test_a_refusal_says_why(
    thumbnailer: thumbnail_pb2_grpc.ThumbnailerStub, sent: thumbnail_pb2.CreateThumbnailRequest, reason: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await thumbnailer.CreateThumbnail(sent, timeout=20)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details().startswith(reason)


SMALL = [(SERVICES[0][0], lambda: thumbnails.Thumbnailer(pixels_at_once=640 * 480 - 1, max_wait=0.05))]


@pytest.mark.parametrize("channel", [SMALL], indirect=True, ids=["little memory"])
async def test_what_the_memory_does_not_allow_is_refused_in_time(
    thumbnailer: thumbnail_pb2_grpc.ThumbnailerStub,
) -> None:
    data = images.encode(images.quarters(), "PNG")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await thumbnailer.CreateThumbnail(request(data, width=9), timeout=20)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
