"""Broken and odd image files, in the commands that read images."""

import json
import struct
import zlib

import numpy as np
from PIL import Image

from tests.malformed.case import Case
from tests.odd_images import encoded, scene
from workers.data.dataset import Row, write_dataset


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, bits=8, colour=2, *rest):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(rest) + chunk(b"IEND", b"")


def wide(values, kind="PNG"):
    return encoded(Image.fromarray(values), kind)


def spoiled(content, place, byte=0xFF):
    return content[:place] + bytes([byte]) + content[place + 1 :]


NOISE = Image.fromarray(np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8))
UNREADABLE = r"cannot be read as an image \("
NOT_ONE = r"cannot be read as an image \(cannot identify image file\)"

BROKEN = {
    "0 bytes": (b"", r"the image is empty"),
    "text": (b"hello", NOT_ONE),
    "a web page": (b"<!DOCTYPE html><html><body>404</body></html>", NOT_ONE),
    "a pointer of Git LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n",
        "it is a pointer of Git LFS, not the file itself: run `git lfs pull`",
    ),
    "a drawing as SVG": (b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', NOT_ONE),
    "a PDF": (b"%PDF-1.7\n%%EOF\n", NOT_ONE),
    "an archive": (b"PK\x03\x04" + b"\0" * 60, NOT_ONE),
    "a film": (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + b"\0" * 64, NOT_ONE),
    "a NumPy file": (b"\x93NUMPY\1\0v\0{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}" + b" " * 60, NOT_ONE),
    "zeros": (b"\0" * 1000, NOT_ONE),
    "a PNG that ends after its signature": (b"\x89PNG\r\n\x1a\n", UNREADABLE),
    "a PNG cut off": (encoded(NOISE)[:900], UNREADABLE),
    "a PNG without pixels": (png(8, 8), UNREADABLE),
    "a PNG with a wrong byte in its header": (spoiled(encoded(NOISE), 19), UNREADABLE),
    "a PNG with a colour type that there is not": (png(8, 8, 8, 9), UNREADABLE),
    "a PNG with pixels that are no zlib": (png(8, 8, 8, 2, chunk(b"IDAT", b"x" * 50)), UNREADABLE),
    "a PNG of no width": (png(0, 8), UNREADABLE),
    "a PNG of no height": (png(8, 0), UNREADABLE),
    "a decompression bomb": (png(20_000, 20_000), r"more than 89,478,485 pixels; shrink the image"),
    "a bomb that Pillow warns of": (png(10_000, 10_000), r"more than 89,478,485 pixels; shrink the image"),
    "a bomb of 4 billion by 4 billion": (png(2**31 - 1, 2**31 - 1), r"more than 89,478,485 pixels|cannot be read"),
    "a bomb as GIF": (
        b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\2D\1\0;",
        r"more than 89,478,485 pixels",
    ),
    "800,000 x 1 pixels": (encoded(Image.new("1", (800_000, 1))), r"800,000 x 1 pixels would be resized to .*; crop"),
    "1 x 800,000 pixels": (encoded(Image.new("L", (1, 800_000))), r"1 x 800,000 pixels would be resized to .*; crop"),
    "a JPEG cut off": (encoded(NOISE, "JPEG")[:900], UNREADABLE),
    "a JPEG that ends after its header": (encoded(NOISE, "JPEG")[:200], UNREADABLE),
    "a GIF cut off": (encoded(NOISE, "GIF")[:1500], UNREADABLE),
    "a GIF without a frame": (b"GIF89a\1\0\1\0\0\0\0;", UNREADABLE),
    "a WebP cut off": (encoded(NOISE, "WEBP")[:300], UNREADABLE),
    "a WebP that ends after its header": (b"RIFF\x24\0\0\0WEBPVP8 ", UNREADABLE),
    "a TIFF cut off": (encoded(NOISE, "TIFF")[:-3000], UNREADABLE),
    "a TIFF without a directory": (b"II*\0\x08\0\0\0", UNREADABLE),
    "a BMP cut off": (encoded(NOISE, "BMP")[:900], UNREADABLE),
    "a BMP that ends after its header": (encoded(NOISE, "BMP")[:20], UNREADABLE),
    "an AVIF of nothing": (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + b"\0" * 40, UNREADABLE),
    "an ICO without images": (b"\0\0\1\0\0\0", UNREADABLE),
    "a PGM with maxval 0": (b"P5 2 2 0\n\0\0\0\0", UNREADABLE),
    "a PGM with maxval 70000": (b"P5 2 2 70000\n" + b"\0" * 8, UNREADABLE),
    "a PPM of a negative size": (b"P6 -2 2 255\n" + b"\0" * 12, UNREADABLE),
    "a PPM cut off": (b"P6 8 8 255\n" + b"\0" * 12, UNREADABLE),
}
FLOATS = np.linspace(0, 1, 900, dtype=np.float32).reshape(30, 30)
UNDECLARED = {
    "a float TIFF": (
        wide(FLOATS, "TIFF"),
        r"row 0: its values, 0 to 1, are floating-point numbers, and the file does not",
    ),
    "12 bits in a PNG of 16": (wide((FLOATS * 4095).astype(np.uint16)), r"16 bits, but no value is above 4095"),
    "a TIFF that is not finite": (wide(FLOATS * np.float32(np.nan), "TIFF"), r"values that are not finite numbers"),
    "a TIFF of 32 bits": (wide((FLOATS * 1e6).astype(np.int32), "TIFF"), r"0 to 1e\+06, are 32-bit numbers"),
}

BUILD = ["data", "build", "--images", "images", "--captions", "captions.csv", "--out", "o.parquet"]
SHOW = ["data", "show", "d.parquet"]
SEARCH = [
    "search",
    "--model",
    "local-dir:{model}",
    "--data",
    "d.parquet",
    "--out",
    "r",
    "--pool",
    "inline",
    "--no-precheck",
    "--json",
]
EVAL = ["eval", "--mask", "{mask}", "--data", "d.parquet", "--json"]
EXPLAIN = ["explain", "--mask", "{mask}", "--data", "d.parquet", "--out", "e", "--json"]


def folder(content):
    def make(path):
        (path / "images").mkdir()
        (path / "images" / "a.png").write_bytes(content)
        (path / "captions.csv").write_text("filename,caption\na.png,a drawing\n")

    return make


def data(content, *, alone=False):
    """Return what makes a data set with one image in it, in row 0; alone, or among sound ones."""

    def make(path):
        images = [content] if alone else [content, *(encoded(scene(seed)) for seed in range(5))]
        splits = ("search", "confirm", "test") * 2
        rows = [
            Row(f"{n}.png", image, (f"number {n}",), split)
            for n, (image, split) in enumerate(zip(images, splits, strict=False))
        ]
        write_dataset(path / "d.parquet", rows)

    return make


def mask_with(**changes):
    def make(path):
        content = {
            "format": "headmask/1",
            "model": {"name": "ViT-B-32", "weights_sha256": "a" * 64},
            "grid": {"layers": 3, "heads": 4},
            "heads": ["L0H1"],
            **changes,
        }
        (path / "mask.json").write_text(json.dumps(content))

    return make


def setting(value):
    def make(path):
        (path / "s.toml").write_text(f"[search]\npixels = {value}\n")

    return make


OWN_MASK = ["eval", "--mask", "mask.json", "--data", "{data}"]
UNKNOWN = r"pixels must be stock or composited; got "
NO_RULE = r"pixels: .*'stock' or 'composited'"
RULE = r"pixels: must be 'stock' or 'composited', got "

CASES = [
    *(
        Case(f"build from {name}", BUILD, rf"a\.png.*{why}|{why}", make=folder(content))
        for name, (content, why) in BROKEN.items()
    ),
    *(
        Case(
            f"show a data set of {name} alone",
            SHOW,
            rf"has no image that can be read: row 0: .*{why}",
            make=data(content, alone=True),
        )
        for name, (content, why) in list(BROKEN.items())[::4]
    ),
    *(
        Case(f"search on {name}", SEARCH, rf"d\.parquet row 0: .*{why}", make=data(content))
        for name, (content, why) in list(BROKEN.items())[1::5]
    ),
    *(
        Case(f"eval on {name}", EVAL, rf"d\.parquet row 0: .*{why}", make=data(content))
        for name, (content, why) in list(BROKEN.items())[2::5]
    ),
    *(
        Case(
            f"{command[0]} composited on {name}",
            [*command, "--pixels", "composited"],
            why,
            make=data(content, alone=command is SHOW),
        )
        for name, (content, why) in UNDECLARED.items()
        for command in (SHOW, SEARCH, EVAL)
    ),
    Case(
        "no such rule for show",
        [*SHOW, "--pixels", "gray"],
        UNKNOWN + r"'gray'",
        make=data(encoded(NOISE)),
    ),
    Case("no such rule for a search", [*SEARCH, "--pixels", "gray"], RULE + "'gray'", make=data(encoded(NOISE))),
    Case(
        "no such rule for eval",
        [*EVAL, "--pixels", ""],
        UNKNOWN + r"''",
        make=data(encoded(NOISE)),
    ),
    Case(
        "no such rule for explain",
        [*EXPLAIN, "--pixels", "STOCK"],
        UNKNOWN + r"'STOCK'",
        make=data(encoded(NOISE)),
    ),
    Case("a rule that is a number", ["search", "s.toml"], RULE + "3", make=setting(3)),
    Case("a rule that is true", ["search", "s.toml"], RULE + "true", make=setting("true")),
    Case("a rule that is a list", ["search", "s.toml"], RULE + r"\['stock'\]", make=setting('["stock"]')),
    Case(
        "a mask file with a rule that there is not",
        OWN_MASK,
        NO_RULE,
        make=mask_with(pixels="gray"),
    ),
    Case(
        "a mask file with a rule that is a number",
        OWN_MASK,
        NO_RULE,
        make=mask_with(pixels=1),
    ),
    Case("a mask file with no rule by name", OWN_MASK, NO_RULE, make=mask_with(pixels=None)),
]
