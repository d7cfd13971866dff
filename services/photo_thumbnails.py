"""The thumbnails of photos, made in the background: a durable job, one photo at a time in each process."""

import asyncio

import grpc

import rpc
from photos.v1 import thumbnailer_pb2, thumbnailer_pb2_grpc
from services.buckets import open_store
from services.photo_names import STORE, check_sizes, is_photo_id, original_name, thumbnail_name
from services.thumbnails import RefusedError, content_type, open_image, shrink


class PhotoThumbnailer(thumbnailer_pb2_grpc.ThumbnailerServicer):
    """Takes photos out of the object store and puts their thumbnails there.

    Whenever it is killed, the next attempt finds the thumbnails that are ready and makes the others. What was killed
    while it wrote one has left nothing that anybody sees: objects appear whole.
    """

    def __init__(self) -> None:
        self._store: rpc.ObjectStore | None = None

    async def CreateThumbnails(
        self, request: thumbnailer_pb2.CreateThumbnailsRequest, context: rpc.JobContext
    ) -> thumbnailer_pb2.CreateThumbnailsResponse:
        if self._store is None:
            self._store = open_store(STORE)
        try:
            sizes = check_sizes(list(request.sizes))
            photo = await self._store.get(original_name(request.photo_id)) if is_photo_id(request.photo_id) else None
            if photo is None:
                await context.abort(grpc.StatusCode.NOT_FOUND, f"photo_id: there is no photo {request.photo_id!r}")
            for number, size in enumerate(sizes, start=1):
                await self._make(self._store, request.photo_id, photo.data, size)
                await context.report(
                    thumbnailer_pb2.CreateThumbnailsProgress(sizes_done=number, sizes_total=len(sizes))
                )
        except RefusedError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except rpc.DataLossError as error:
            await context.abort(grpc.StatusCode.DATA_LOSS, str(error))
        except ConnectionError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        return thumbnailer_pb2.CreateThumbnailsResponse(photo_id=request.photo_id, sizes=sizes)

    async def _make(self, store: rpc.ObjectStore, photo_id: str, photo: bytes, size: int) -> None:
        name = thumbnail_name(photo_id, size)
        if await store.info(name) is None:
            data, kind = await asyncio.to_thread(thumbnail, photo, size)
            await store.put(name, data, content_type=kind)


def thumbnail(photo: bytes, size: int) -> tuple[bytes, str]:
    """A thumbnail that fits into a square, and its content type. Raises RefusedError."""
    image = open_image(photo)
    return shrink(image, size, size), content_type(image)
