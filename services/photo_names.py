"""Where photos and their thumbnails lie in the object store, and what may be asked of them."""

import re

from services.thumbnails import RefusedError, check_side

STORE = "photos"
DEFAULT_SIZES = (64, 256, 1024)
MAX_SIZES = 8

_ID = re.compile(r"[0-9a-f]{32}")


def is_photo_id(photo_id: str) -> bool:
    """Whether a photo could have this id."""
    return _ID.fullmatch(photo_id) is not None


def original_name(photo_id: str) -> str:
    """The name of a photo as it came."""
    return f"{photo_id}/original"


def thumbnail_name(photo_id: str, size: int) -> str:
    """The name of a thumbnail. It follows from what it shows, so that whoever makes it again writes the same."""
    return f"{photo_id}/{size}"


def check_sizes(sizes: list[int]) -> list[int]:
    """The wanted sizes in pixels, smallest first, if they are sensible ones. Raises RefusedError."""
    if len(sizes) > MAX_SIZES:
        raise RefusedError(f"sizes: {len(sizes)} are wanted, at most {MAX_SIZES} are made of one photo")
    return sorted({check_side("sizes", size) for size in sizes})
