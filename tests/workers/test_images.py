"""Decoding: whatever Pillow reads becomes upright 8-bit RGB, whatever it does not is one message."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from headmask.errors import DataError
from workers.images import decode_image

GRADIENT = np.tile(np.arange(0, 240, 8, dtype=np.uint8), (20, 1))


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(image, kind="PNG", **options):
    found = decode_image(encoded(image, kind, **options), "x")
    assert found.mode == "RGB"
    return np.asarray(found)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_opaque_8_bit_images_are_converted_as_pillow_does(kind, mode):
    content = encoded(Image.fromarray(GRADIENT).convert(mode), kind)
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    assert np.array_equal(np.asarray(decode_image(content, "x")), expected)


def test_exif_orientation_is_applied():
    image = Image.fromarray(GRADIENT)
    exif = image.getexif()
    exif[0x0112] = 6
    assert decoded(image, "JPEG", exif=exif).shape == (30, 20, 3)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_composited_over_white(mode):
    image = Image.new(mode, (4, 4), 0)
    assert (decoded(image) == 255).all()


def test_a_palette_with_a_transparent_colour_is_composited_over_white():
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    assert decoded(image, transparency=0).tolist() == [[[255, 255, 255], [200, 100, 50]]]


def test_16_bit_grayscale_is_scaled_not_clipped():
    wide = np.array([[0, 257, 32896, 65535]], np.uint16)
    assert decoded(Image.fromarray(wide))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_floating_point_images_are_scaled_from_0_to_1():
    image = Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32))
    assert decoded(image, "TIFF")[0, :, 0].tolist() == [0, 128, 255]


def test_cmyk_and_1_bit_images_are_decoded():
    assert decoded(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "JPEG")[0, 0, 0] > 200
    assert decoded(Image.new("1", (4, 4), 1)).min() == 255


def test_the_first_frame_of_an_animation_is_taken():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    red, green, blue = decoded(frames[0], "GIF", save_all=True, append_images=frames[1:])[0, 0]
    assert red > 250
    assert max(green, blue) < 5
    assert decoded(frames[0], "PNG", save_all=True, append_images=frames[1:])[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "row 7: the image is empty"),
        (b"hello", r"row 7: cannot be read as an image \(cannot identify image file\)"),
        (
            encoded(Image.fromarray(np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)))[:900],
            "row 7: cannot be read",
        ),
        (encoded(Image.fromarray(GRADIENT), "JPEG")[:300], "row 7: cannot be read as an image"),
    ],
)
def test_what_is_no_whole_image_is_refused_with_its_place(content, message):
    with pytest.raises(DataError, match=message):
        decode_image(content, "row 7")


def test_a_decompression_bomb_is_refused_before_it_is_decoded():
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(DataError, match=r"row 7: more than 89,478,485 pixels; shrink the image"):
        decode_image(bomb, "row 7")
