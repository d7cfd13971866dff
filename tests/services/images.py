"""Makes real image files for tests."""

import io
from typing import Any

from PIL import ExifTags, Image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encode(image: Image.Image, name: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


def decode(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def quarters(width: int = 640, height: int = 480, mode: str = "RGB") -> Image.Image:
    """Red, green / blue, white: shows how an image was turned."""
    image = Image.new("RGB", (width, height), WHITE)
    image.paste(RED, (0, 0, width // 2, height // 2))
    image.paste(GREEN, (width // 2, 0, width, height // 2))
    image.paste(BLUE, (0, height // 2, width // 2, height))
    return image.convert(mode)


def corners(image: Image.Image) -> list[tuple[int, int, int]]:
    """The pure colours nearest to those in the four quarters, in the order of `quarters`."""
    picture = image.convert("RGB")
    places = [(1, 1), (3, 1), (1, 3), (3, 3)]
    pixels = [picture.getpixel((picture.width * x // 4, picture.height * y // 4)) for x, y in places]
    return [tuple(255 if channel > 127 else 0 for channel in pixel) for pixel in pixels]


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = orientation
    tags[ExifTags.Base.ImageDescription] = "the camera's secret"
    return tags


def photo(**options: Any) -> bytes:
    """A JPEG of the size that cameras make: 24 million pixels, more than 8 MB."""
    noise = Image.effect_noise((6000, 4000), 32)
    return encode(Image.merge("RGB", [noise, noise.transpose(Image.Transpose.ROTATE_180), noise]), "JPEG", **options)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that claims, and has, very many pixels."""
    return encode(Image.new("1", (width, height)), "PNG")
