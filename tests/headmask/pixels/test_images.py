"""Decoding: whatever Pillow reads becomes upright 8-bit RGB, whatever it does not is one message."""

import io
import struct
import zlib

import numpy as np
import pytest
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image, TiffImagePlugin

from headmask.errors import ConfigError, DataError
from headmask.pixels.images import by_rule, check_image, decode_image, quiet_pillow, rule_of

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


def tiff(values, tags=None, **options):
    """Return a TIFF of gray values with tags by number."""
    found = TiffImagePlugin.ImageFileDirectory_v2()
    for number, (kind, value) in (tags or {}).items():
        found.tagtype[number] = kind
        found[number] = value
    return encoded(Image.fromarray(values), "TIFF", tiffinfo=found, **options)


SHORT, FLOAT = 3, 11


@pytest.mark.parametrize(
    ("values", "tags", "expected"),
    [
        (np.array([[0.0, 0.5, 1.0]], np.float32), {340: (FLOAT, 0.0), 341: (FLOAT, 1.0)}, [0, 128, 255]),
        (np.array([[-1.0, 0.0, 1.0]], np.float32), {340: (FLOAT, -1.0), 341: (FLOAT, 1.0)}, [0, 128, 255]),
        (np.array([[0, 300, 4095]], np.float32), {281: (SHORT, 4095)}, [0, 19, 255]),
        (np.array([[0, 300, 4095]], np.uint16), {281: (SHORT, 4095)}, [0, 19, 255]),
        (np.array([[1000, 1500, 2000]], np.uint16), {280: (SHORT, 1000), 281: (SHORT, 2000)}, [0, 128, 255]),
        (np.array([[0, 300, 65535]], np.int32), {281: (4, 65535)}, [0, 1, 255]),
        (np.array([[0, 257, 65535]], np.uint16), {262: (SHORT, 0)}, [255, 254, 0]),
        (np.array([[0, 0, 0]], np.uint16), {}, [0, 0, 0]),
    ],
)
def test_wide_values_are_scaled_from_the_range_that_a_tiff_declares(values, tags, expected):
    assert np.asarray(decode_image(tiff(values, tags), "x"))[0, :, 0].tolist() == expected


def test_the_maxval_of_a_pgm_is_white():
    content = b"P5 3 1 4095\n" + np.array([0, 2048, 4095], ">u2").tobytes()
    assert np.asarray(decode_image(content, "x"))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("values", "tags", "message"),
    [
        (
            np.array([[0.0, 0.5, 1.0]], np.float32),
            {},
            "its values, 0 to 1, are floating-point numbers, and the file does",
        ),
        (np.array([[0.0, 90000.0]], np.float32), {}, "its values, 0 to 90000, are floating-point numbers"),
        (np.array([[0.0, np.nan]], np.float32), {341: (FLOAT, 1.0)}, "it holds values that are not finite numbers"),
        (np.array([[0, 4095]], np.uint16), {}, "it has 16 bits, but no value is above 4095, as with 12 bits or less"),
        (
            np.array([[0, 5000]], np.uint16),
            {281: (SHORT, 4095)},
            "its values, 0 to 5000, leave the range .* declares, 0 to 4095",
        ),
        (
            np.array([[-5, 5000]], np.int32),
            {},
            "its values, -5 to 5000, are 32-bit numbers, and the file does not declare",
        ),
    ],
)
def test_a_range_that_no_file_declares_is_refused_not_guessed(values, tags, message):
    with pytest.raises(DataError, match=f"^row 3: {message}"):
        decode_image(tiff(values, tags), "row 3")


def test_colours_of_16_bits_with_12_in_use_are_refused():
    def png48(values_YX3):
        def chunk(kind, data):
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values_YX3)
        header = struct.pack(">IIBBBBB", values_YX3.shape[1], len(values_YX3), 16, 2, 0, 0, 0)
        parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        return b"\x89PNG\r\n\x1a\n" + parts

    values = np.full((2, 2, 3), 4095)
    with pytest.raises(DataError, match="its colours have 16 bits, of which few are in use"):
        decode_image(png48(values), "x")
    assert decode_image(png48(values * 16), "x").getpixel((0, 0)) == (255, 255, 255)


def test_a_transparent_value_of_16_bits_is_white():
    wide = Image.fromarray(np.array([[0, 30000, 65535]], np.uint16))
    content = encoded(wide, transparency=30000)
    assert np.asarray(decode_image(content, "x"))[0, :, 0].tolist() == [0, 255, 255]


@pytest.mark.parametrize("broken", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b""])
def test_broken_exif_turns_nothing(broken):
    image = Image.fromarray(GRADIENT)
    with quiet_pillow():
        assert decoded(image, "JPEG", exif=broken).shape == (20, 30, 3)


def test_stock_pixels_are_pillows_conversion():
    turned = Image.fromarray(GRADIENT)
    exif = turned.getexif()
    exif[0x0112] = 6
    content = encoded(turned, "PNG", exif=exif)
    assert decode_image(content, "x", "stock").size == (30, 20)
    wide = encoded(Image.fromarray(np.array([[0, 200, 30000]], np.uint16)))
    assert np.asarray(decode_image(wide, "x", "stock"))[0, :, 0].tolist() == [0, 200, 255]


@pytest.mark.parametrize("size", [(800_000, 1), (1, 800_000), (3000, 1)])
def test_an_image_too_thin_to_be_resized_is_refused_before_it_is_decoded(size):
    content = encoded(Image.new("1", size))
    with pytest.raises(DataError, match=r"row 7: .* pixels would be resized to .*; crop the image"):
        check_image(content, "row 7")


def test_the_rules_of_a_transform_can_be_told_and_changed():
    stock = image_transform_v2(PreprocessCfg(size=28), is_train=False)
    composited = by_rule(stock, "composited")
    assert rule_of(stock) == "stock"
    assert rule_of(composited) == "composited"
    assert by_rule(composited, "composited") is composited
    assert repr(by_rule(composited, "stock")) == repr(stock)
    with pytest.raises(ConfigError, match="pixels must be stock or composited; got 'grey'"):
        by_rule(stock, "grey")
    with pytest.raises(ConfigError, match="no torchvision Compose has no pixel rule"):
        by_rule(len, "composited")


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
