"""What the thumbnailer makes of images, without a server."""

import random
import threading
import time

import pytest
from PIL import Image

from services import thumbnails
from tests.services import images


def thumbnail(data: bytes, width: int, height: int = thumbnails.MAX_SIDE) -> Image.Image:
    return images.decode(thumbnails.shrink(thumbnails.open_image(data), width, height))


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
def test_the_format_stays_and_the_width_is_exact(name: str) -> None:
    made = thumbnail(images.encode(images.quarters(), name), 256)
    assert (made.format, made.size) == (name, (256, 192))
    assert images.corners(made) == [images.RED, images.GREEN, images.BLUE, images.WHITE]


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_set_upright(name: str, orientation: int) -> None:
    upright = images.quarters(320, 160)
    undo = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270} | {
        key: thumbnails._UPRIGHT[key] for key in (2, 3, 4, 5, 7)
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    made = thumbnail(images.encode(stored, name, exif=images.exif(orientation)), 80)
    assert made.size == (80, 40)
    assert images.corners(made) == [images.RED, images.GREEN, images.BLUE, images.WHITE]


def test_orientation_6_turns_clockwise() -> None:
    """Against the standard's words, not against our table: the stored left side is the top of the scene."""
    made = thumbnail(images.encode(images.quarters(), "JPEG", exif=images.exif(6)), 100)
    assert images.corners(made) == [images.BLUE, images.RED, images.WHITE, images.GREEN]


@pytest.mark.parametrize(
    ("stored", "box", "size"),
    [
        ((640, 480), (256, 4096), (256, 192)),
        ((640, 480), (4096, 120), (160, 120)),
        ((640, 480), (100, 100), (100, 75)),
        ((480, 640), (100, 100), (75, 100)),
        ((40, 30), (256, 4096), (40, 30)),  # never enlarged
        ((5000, 2), (100, 100), (100, 1)),  # never less than a pixel
        ((2, 5000), (256, 4096), (2, 4096)),
        ((1503, 1000), (256, 4096), (256, 170)),
    ],
)
def test_it_fits_the_box(stored: tuple[int, int], box: tuple[int, int], size: tuple[int, int]) -> None:
    for name in ("JPEG", "PNG", "WEBP"):
        assert thumbnail(images.encode(Image.new("RGB", stored), name), *box).size == size


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
def test_what_the_camera_wrote_does_not_get_out(name: str) -> None:
    options = {"exif": images.exif(6), "comment": b"secret", "xmp": b"secret"}
    for size in (256, 4096):
        data = thumbnails.shrink(thumbnails.open_image(images.encode(images.quarters(), name, **options)), size, size)
        assert b"secret" not in data
        assert not images.decode(data).getexif()


def test_the_colour_profile_stays() -> None:
    data = images.encode(images.quarters(), "JPEG", icc_profile=b"a profile")
    assert thumbnail(data, 64).info["icc_profile"] == b"a profile"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_kind_of_png(mode: str) -> None:
    made = thumbnail(images.encode(images.quarters().convert("L").convert(mode), "PNG"), 100)
    assert made.size == (100, 75)


def test_grey_stays_grey_and_16_bits_become_8() -> None:
    made = thumbnail(images.encode(Image.new("I;16", (200, 100), 40000), "PNG"), 100)
    assert (made.mode, made.getpixel((50, 25))) == ("L", 40000 >> 8)


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA"])
def test_transparency_survives(mode: str) -> None:
    picture = images.quarters(200, 200).convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize((200, 200)))
    made = thumbnail(images.encode(picture.convert(mode), "PNG"), 50).convert("RGBA")
    assert made.getpixel((25, 2))[3] < 30
    assert made.getpixel((25, 47))[3] > 220


def test_a_cmyk_jpeg_becomes_rgb() -> None:
    made = thumbnail(images.encode(images.quarters(mode="CMYK"), "JPEG", icc_profile=b"for CMYK"), 64)
    assert made.mode == "RGB"
    assert "icc_profile" not in made.info
    assert images.corners(made) == [images.RED, images.GREEN, images.BLUE, images.WHITE]


def test_a_jpeg_with_a_second_picture_inside_is_a_jpeg() -> None:
    data = images.encode(images.quarters(), "MPO", save_all=True, append_images=[images.quarters(64, 48)])
    image = thumbnails.open_image(data)
    assert thumbnails.file_format(image) == "JPEG"
    assert images.decode(thumbnails.shrink(image, 256, 256)).size == (256, 192)


@pytest.mark.parametrize("name", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame_counts(name: str) -> None:
    frames = [Image.new("RGB", (80, 60), colour) for colour in (images.RED, images.GREEN)]
    made = thumbnail(images.encode(frames[0], name, save_all=True, append_images=frames[1:]), 40)
    assert images.corners(made) == [images.RED] * 4
    assert getattr(made, "n_frames", 1) == 1


def test_a_large_jpeg_is_never_held_whole() -> None:
    image = thumbnails.open_image(images.photo(quality=75))
    assert image.size == (6000, 4000)
    made = images.decode(thumbnails.shrink(image, 256, 4096))
    assert made.size == (256, 171)
    assert image.width * image.height <= 6000 * 4000 // 16  # what the decoder was told to make


@pytest.mark.parametrize("pixels", [0, -1, 4097, 2**31 - 1])
def test_a_silly_size_is_refused(pixels: int) -> None:
    with pytest.raises(thumbnails.RefusedError, match=rf"width: {pixels} is not from 1 to 4096 pixels"):
        thumbnails.check_side("width", pixels)


@pytest.mark.parametrize("size", [(8001, 8000), (10000, 9000), (20000, 20000)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused_unopened(size: tuple[int, int]) -> None:
    data = images.bomb(*size)
    assert len(data) < 100_000
    with pytest.raises(thumbnails.RefusedError, match="image: it has more than 64 million pixels"):
        thumbnails.open_image(data)


def test_a_bomb_is_refused_where_warnings_are_errors() -> None:
    with pytest.raises(thumbnails.RefusedError, match="more than 64 million"):
        thumbnails.open_image(images.bomb(10000, 9000))


@pytest.mark.parametrize(
    "data",
    [
        b"Dear Sir or Madam,",
        b"\x00" * 1000,
        b"RIFF\x00\x00\x00\x00AVI LIST",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        images.encode(images.quarters(), "GIF"),
        images.encode(images.quarters(), "BMP"),
        images.encode(images.quarters(), "TIFF"),
    ],
    ids=["text", "zeros", "avi", "svg", "gif", "bmp", "tiff"],
)
def test_what_is_no_supported_image_is_refused(data: bytes) -> None:
    with pytest.raises(thumbnails.RefusedError, match="image: not a JPEG, PNG or WebP file"):
        thumbnails.open_image(data)


def test_an_empty_body_is_refused() -> None:
    with pytest.raises(thumbnails.RefusedError, match="image: it is empty"):
        thumbnails.open_image(b"")


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("kept", [0.01, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_image_is_refused(name: str, kept: float) -> None:
    data = images.encode(Image.effect_noise((640, 480), 50).convert("RGB"), name)
    with pytest.raises(thumbnails.RefusedError, match=f"image: the {name} file is truncated or damaged"):
        thumbnail(data[: int(len(data) * kept)], 64)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
def test_damage_anywhere_is_refused_or_survived(name: str) -> None:
    """Never another exception than RefusedError, whatever bytes are changed, lost or added."""
    chance = random.Random(name)
    data = images.encode(images.quarters(160, 120), name, exif=images.exif(6))
    for _ in range(400):
        damaged = bytearray(data)
        for _ in range(chance.choice((1, 2, 10))):
            place = chance.randrange(8, len(damaged))
            damaged[place : place + chance.choice((0, 1, 1, 20))] = chance.randbytes(chance.choice((0, 1, 1, 9)))
        try:
            made = thumbnail(bytes(damaged), 64)
        except thumbnails.RefusedError:
            continue
        assert made.width <= 64


def test_the_budget_lets_the_next_in_when_one_has_left() -> None:
    budget = thumbnails.PixelBudget(100)
    entered = threading.Event()

    def second() -> None:
        with budget.reserve(50, 10):
            entered.set()

    with budget.reserve(60, 10):
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(0.05)
    assert entered.wait(10)
    thread.join()


def test_the_budget_is_not_waited_for_longer_than_the_deadline() -> None:
    budget = thumbnails.PixelBudget(100)
    begin = time.monotonic()
    with budget.reserve(60, 10), pytest.raises(TimeoutError), budget.reserve(50, 0.05):
        pass
    assert time.monotonic() - begin < 5
    with budget.reserve(100, 0):  # all is given back
        pass
