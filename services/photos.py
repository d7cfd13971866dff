"""Photos: taken in at once, looked at and given thumbnails later.

`CreatePhoto` does three things in this order: it puts the photo into the object store, puts the job that makes its
thumbnails into the queue, and notes what is known of the photo. Whoever gets an answer has all three. Who gets none,
because we or the broker were killed in between, has at most a photo that nobody knows of; repeated with its
`request_id`, the call finds and completes it.
"""

import asyncio
import hashlib
import uuid
from typing import NoReturn

import grpc
from google.api import httpbody_pb2
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

import rpc
from photos.v1 import photos_pb2, photos_pb2_grpc, thumbnailer_pb2, thumbnailer_pb2_grpc
from services.buckets import open_bucket, open_store
from services.photo_names import DEFAULT_SIZES, STORE, check_sizes, is_photo_id, original_name, thumbnail_name
from services.thumbnails import content_type, open_image

MAX_REQUEST_ID = 128
BROKER_SECONDS = 10.0
ASK_AGAIN = duration_pb2.Duration(seconds=1)

FAILURES = (ConnectionError, rpc.DataLossError, grpc.aio.AioRpcError)


class Photos(photos_pb2_grpc.PhotosServicer):
    """Keeps photos in an object store, and what is known of them in a bucket."""

    def __init__(self) -> None:
        self._opened: Kept | None = None

    async def CreatePhoto(
        self, request: photos_pb2.CreatePhotoRequest, context: grpc.aio.ServicerContext
    ) -> photos_pb2.Photo:
        try:
            photo = photo_of(request)
            stored = await self._kept.find(photo.id) if request.request_id else None
            if stored is None:
                return await self._kept.store(photo, request.image.data)
            await self._kept.look_at(stored)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except FAILURES as error:
            await fail(context, error)
        return stored

    async def GetPhoto(
        self, request: photos_pb2.GetPhotoRequest, context: grpc.aio.ServicerContext
    ) -> photos_pb2.Photo:
        try:
            photo = await self._kept.find(request.id)
            if photo is not None:
                await self._kept.look_at(photo)
        except FAILURES as error:
            await fail(context, error)
        return photo or await unknown(context, request.id)

    async def GetThumbnail(
        self, request: photos_pb2.GetThumbnailRequest, context: grpc.aio.ServicerContext
    ) -> httpbody_pb2.HttpBody:
        try:
            if body := await self._kept.blob(request.id, thumbnail_name(request.id, request.size)):
                return body
            photo = await self._kept.find(request.id) or await unknown(context, request.id)
            if request.size not in photo.sizes:
                sizes = ", ".join(map(str, photo.sizes))
                await context.abort(grpc.StatusCode.NOT_FOUND, f"size: this photo has thumbnails of {sizes} pixels")
            await self._kept.look_at(photo)
        except FAILURES as error:
            await fail(context, error)
        if photo.state == photos_pb2.Photo.STATE_FAILED:
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION, f"the thumbnail could not be made: {photo.error.message}"
            )
        return await not_yet(context)

    async def GetOriginal(
        self, request: photos_pb2.GetOriginalRequest, context: grpc.aio.ServicerContext
    ) -> httpbody_pb2.HttpBody:
        try:
            body = await self._kept.blob(request.id, original_name(request.id))
        except FAILURES as error:
            await fail(context, error)
        return body or await unknown(context, request.id)

    @property
    def _kept(self) -> "Kept":
        if self._opened is None:
            self._opened = Kept()
        return self._opened


class Kept:
    """The photos, as they are kept on the broker that we are served by. All methods raise one of FAILURES."""

    def __init__(self) -> None:
        channel = rpc.Channel(rpc.current_connection())
        self._thumbnailer = thumbnailer_pb2_grpc.ThumbnailerStub(channel)
        self._operations = operations_pb2_grpc.OperationsStub(channel)  # type: ignore[no-untyped-call]
        self._blobs = open_store(STORE)
        self._notes = open_bucket(STORE)

    async def find(self, photo_id: str) -> photos_pb2.Photo | None:
        """What was noted of a photo."""
        note = await self._notes.get(photo_id) if is_photo_id(photo_id) else None
        return None if note is None else photos_pb2.Photo.FromString(note.value)

    async def blob(self, photo_id: str, name: str) -> httpbody_pb2.HttpBody | None:
        """A photo or thumbnail, with its content type."""
        blob = await self._blobs.get(name) if is_photo_id(photo_id) else None
        return None if blob is None else httpbody_pb2.HttpBody(content_type=blob.content_type, data=blob.data)

    async def store(self, photo: photos_pb2.Photo, data: bytes) -> photos_pb2.Photo:
        """Keep a photo, order its thumbnails, and note both."""
        await self._blobs.put(original_name(photo.id), data, content_type=photo.content_type)
        order = thumbnailer_pb2.CreateThumbnailsRequest(photo_id=photo.id, sizes=photo.sizes, request_id=photo.id)
        operation = await self._thumbnailer.CreateThumbnails(order, timeout=BROKER_SECONDS)
        photo.operation = operation.name
        try:
            await self._notes.create(photo.id, photo.SerializeToString())
        except rpc.RevisionError:  # the same request at the same time
            return await self.find(photo.id) or photo
        return photo

    async def look_at(self, photo: photos_pb2.Photo) -> None:
        """Fill in which of its thumbnails are ready, and where it stands."""
        found = await asyncio.gather(*(self._blobs.info(thumbnail_name(photo.id, size)) for size in photo.sizes))
        photo.ready_sizes[:] = [size for size, info in zip(photo.sizes, found, strict=True) if info is not None]
        if None not in found:
            photo.state = photos_pb2.Photo.STATE_READY
        elif (error := await self._failure(photo)) is not None:
            photo.state = photos_pb2.Photo.STATE_FAILED
            photo.error.CopyFrom(error)

    async def _failure(self, photo: photos_pb2.Photo) -> status_pb2.Status | None:
        """Why its thumbnails could not be made; None while they may still come."""
        asked = operations_pb2.GetOperationRequest(name=photo.operation)
        try:
            operation = await self._operations.GetOperation(asked, timeout=BROKER_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            return status_pb2.Status(code=code_pb2.NOT_FOUND, message="the job is gone that was to make it")
        return operation.error if operation.HasField("error") else None


def photo_of(request: photos_pb2.CreatePhotoRequest) -> photos_pb2.Photo:
    """The photo that a request brings. Raises ValueError that says what to change in it."""
    if len(request.request_id) > MAX_REQUEST_ID:
        raise ValueError(f"request_id: it has more than {MAX_REQUEST_ID} characters; a UUID will do")
    image = open_image(request.image.data)
    photo = photos_pb2.Photo(
        id=uuid.uuid4().hex,
        content_type=content_type(image),
        size_bytes=len(request.image.data),
        width=image.width,
        height=image.height,
        sizes=check_sizes(list(request.sizes) or list(DEFAULT_SIZES)),
        state=photos_pb2.Photo.STATE_PENDING,
    )
    photo.create_time.GetCurrentTime()
    if request.request_id:
        # Of the image too: whoever guesses somebody's request id learns nothing.
        photo.id = hashlib.sha256(request.request_id.encode() + b"\0" + request.image.data).hexdigest()[:32]
    return photo


async def fail(context: grpc.aio.ServicerContext, error: Exception) -> NoReturn:
    """End a call that the broker could not serve."""
    if isinstance(error, grpc.aio.AioRpcError):
        await context.abort(grpc.StatusCode.UNAVAILABLE, f"the queue: {error.details()}")
    code = grpc.StatusCode.DATA_LOSS if isinstance(error, rpc.DataLossError) else grpc.StatusCode.UNAVAILABLE
    await context.abort(code, str(error))


async def unknown(context: grpc.aio.ServicerContext, photo_id: str) -> NoReturn:
    """End a call for a photo that does not exist."""
    await context.abort(grpc.StatusCode.NOT_FOUND, f"id: there is no photo {photo_id[:100]!r}")


async def not_yet(context: grpc.aio.ServicerContext) -> NoReturn:
    """End a call for a thumbnail that will come: a google.rpc.RetryInfo says when to ask again."""
    status = status_pb2.Status(code=code_pb2.NOT_FOUND, message="the thumbnail is not ready yet; ask again")
    status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=ASK_AGAIN))
    details = (("grpc-status-details-bin", status.SerializeToString()),)
    await context.abort(grpc.StatusCode.NOT_FOUND, status.message, details)
