"""Thumbnails of JPEG, PNG and WebP images."""

import io
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from google.api import httpbody_pb2
from PIL import ExifTags, Image

from thumbnail.v1 import thumbnail_pb2, thumbnail_pb2_grpc

MAX_SIDE = 4096
MAX_PIXELS = 64_000_000  # what cameras and phones make; as PNG with transparency, 256 MB once decoded
MAX_PIXELS_AT_ONCE = 2 * MAX_PIXELS

_SAVE_OPTIONS = {"JPEG": {"quality": 85}, "PNG": {}, "WEBP": {"quality": 80}}

# How an image with this EXIF orientation is set upright (Exif 2.3, tag 0x0112; 1 is upright already).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LYING = frozenset({5, 6, 7, 8})  # orientations in which width and height are stored exchanged

_TOO_LARGE = f"image: it has more than {MAX_PIXELS // 1_000_000} million pixels; scale it down before you send it"

# What Pillow raises for damaged files.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error)

# Pillow also warns of them; what strangers send must not fill our log.
warnings.filterwarnings("ignore", module=r"PIL\.")


class RefusedError(ValueError):
    """The request cannot be served as it is; the text says what to change in it."""


class Thumbnailer(thumbnail_pb2_grpc.ThumbnailerServicer):
    """Makes thumbnails, in the server's thread pool: its handler is a plain function."""

    def __init__(self, pixels_at_once: int = MAX_PIXELS_AT_ONCE, max_wait: float = 30.0) -> None:
        """Bounds the memory of all calls together; a call waits at most `max_wait` seconds for its share."""
        self._memory = PixelBudget(pixels_at_once)
        self._max_wait = max_wait

    def CreateThumbnail(
        self, request: thumbnail_pb2.CreateThumbnailRequest, context: grpc.ServicerContext
    ) -> httpbody_pb2.HttpBody:
        remaining = context.time_remaining()
        wait = self._max_wait if remaining is None else min(remaining, self._max_wait)
        try:
            width = check_side("width", request.width)
            height = check_side("height", request.height) if request.HasField("height") else MAX_SIDE
            image = open_image(request.image.data)
            with self._memory.reserve(image.width * image.height, wait):
                data = shrink(image, width, height)
        except RefusedError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except TimeoutError:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many large images are being worked on; try again")
        return httpbody_pb2.HttpBody(content_type=content_type(image), data=data)


def check_side(name: str, pixels: int) -> int:
    """The wanted width or height, if it is a sensible one. Raises RefusedError."""
    if not 1 <= pixels <= MAX_SIDE:
        raise RefusedError(f"{name}: {pixels} is not from 1 to {MAX_SIDE} pixels (over HTTP: ?{name}=256)")
    return pixels


def open_image(data: bytes) -> Image.Image:
    """Reads the header of an image, but none of its pixels yet. Raises RefusedError."""
    if not data:
        raise RefusedError("image: it is empty; send a JPEG, PNG or WebP file as the body")
    sniffed = sniff(data)
    if sniffed is None:
        raise RefusedError("image: not a JPEG, PNG or WebP file; send one, byte for byte (curl: --data-binary @file)")
    try:
        image = Image.open(io.BytesIO(data), formats=[sniffed])
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise RefusedError(_TOO_LARGE) from None
    except _DAMAGED as error:
        raise RefusedError(_damaged(sniffed)) from error
    if image.width * image.height > MAX_PIXELS:
        raise RefusedError(_TOO_LARGE)
    return image


def sniff(data: bytes) -> str | None:
    """Pillow's name of the image format that these bytes begin like, or None."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    return None


def file_format(image: Image.Image) -> str:
    """Pillow's name of the format that an image came in."""
    # Phones write JPEG files with a second picture inside (depth, HDR), which Pillow names MPO.
    return "JPEG" if image.format in (None, "MPO") else image.format


def content_type(image: Image.Image) -> str:
    """The content type of the format that an image came in, and that its thumbnails have."""
    return Image.MIME[file_format(image)]


def shrink(image: Image.Image, width: int, height: int) -> bytes:
    """Sets an image upright, scales it down to fit `width` x `height` pixels and encodes it. Raises RefusedError."""
    output = file_format(image)
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        size = fit(image.size, (height, width) if orientation in _LYING else (width, height))
        # A JPEG decoder can scale by 1/2, 1/4 or 1/8 while it reads, which is faster and saves most of the memory.
        # Twice the wanted size is left for the good filter below.
        draft = image.draft(None, (2 * size[0], 2 * size[1]))
        image.load()
    except _DAMAGED as error:
        raise RefusedError(_damaged(output)) from error
    profile = image.info.get("icc_profile")
    small = _continuous(image).resize(size, Image.Resampling.LANCZOS, box=draft and draft[1], reducing_gap=2.0)
    if orientation in _UPRIGHT:
        small = small.transpose(_UPRIGHT[orientation])
    small.info.clear()  # Pillow would write some of it: comments, for example
    file = io.BytesIO()
    small.save(file, output, icc_profile=profile if small.mode == image.mode else None, **_SAVE_OPTIONS[output])
    return file.getvalue()


def fit(size: tuple[int, int], box: tuple[int, int]) -> tuple[int, int]:
    """The largest size with the aspect ratio of `size` that fits into `box`, and is not larger than `size`."""
    scale = min(1.0, box[0] / size[0], box[1] / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


class PixelBudget:
    """Bounds the memory of calls that run in parallel, by the pixels that they hold together."""

    def __init__(self, pixels: int) -> None:
        self._free = pixels
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, pixels: int, timeout: float) -> Iterator[None]:
        """Waits until so many pixels are free, and holds them. Raises TimeoutError after `timeout` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._free >= pixels, timeout):
                raise TimeoutError
            self._free -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._free += pixels
                self._changed.notify_all()


def _continuous(image: Image.Image) -> Image.Image:
    """The same image in a mode whose values can be averaged, and which JPEG, PNG or WebP can store."""
    if image.mode.startswith("I"):  # 16 bits a pixel, of which 8 are kept
        return image.convert("I").point([value >> 8 for value in range(1 << 16)], "L")
    grey = image.mode in ("1", "L", "LA")
    if image.has_transparency_data:
        return image.convert("LA" if grey else "RGBA")
    return image.convert("L" if grey else "RGB")


def _damaged(name: str) -> str:
    return f"image: the {name} file is truncated or damaged; send it whole, byte for byte (curl: --data-binary @file)"
