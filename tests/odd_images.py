"""Images on which open_clip's own preprocessing and composited pixels differ, and ordinary ones."""

import io

import numpy as np
from PIL import Image


def encoded(image, kind="PNG", **options):
    """Return an image as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def scene(seed, size=(40, 30)):
    """Return some pixels in RGB."""
    small = np.random.default_rng(seed).integers(256, size=(5, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def transparent(seed):
    image = scene(seed).convert("RGBA")
    image.putalpha(scene(seed + 1).convert("L"))
    return encoded(image)


def turned(seed, kind="JPEG"):
    image = scene(seed)
    exif = image.getexif()
    exif[0x0112] = 6
    return encoded(image, kind, exif=exif)


def wide(seed):
    return encoded(Image.fromarray(np.asarray(scene(seed).convert("L"), np.uint16) * 257))


def cmyk(seed):
    bands = [*scene(seed).split(), scene(seed + 1).convert("L")]
    return encoded(Image.merge("CMYK", bands), "JPEG")


def palette(seed):
    return encoded(scene(seed).quantize(16))


def transparent_palette(seed):
    return encoded(scene(seed).quantize(16), transparency=3)


def bitmap(seed):
    return encoded(scene(seed).convert("1"))


def lab(seed):
    return encoded(scene(seed).convert("LAB"), "TIFF")


def gray_alpha(seed):
    image = scene(seed).convert("LA")
    image.putalpha(scene(seed + 1).convert("L"))
    return encoded(image)


def cut_out(seed):
    """Return a transparent image of which all colours are black, as icons are."""
    image = Image.new("RGBA", (40, 30))
    image.putalpha(scene(seed).convert("L"))
    return encoded(image)


def resizes_wide():
    """Return whether this Pillow resizes images of 16 bits smoothly; older ones do not."""
    try:
        Image.new("I;16", (4, 4)).resize((2, 2), Image.Resampling.BICUBIC)
    except ValueError:
        return False
    return True


ODD = {
    each.__name__: each
    for each in (
        transparent,
        turned,
        wide,
        cmyk,
        palette,
        transparent_palette,
        bitmap,
        lab,
        gray_alpha,
        cut_out,
    )
    if each is not wide or resizes_wide()
}
PLAIN = {
    "RGB PNG": lambda seed: encoded(scene(seed)),
    "RGB JPEG": lambda seed: encoded(scene(seed), "JPEG"),
    "gray JPEG": lambda seed: encoded(scene(seed).convert("L"), "JPEG"),
    "upright JPEG": lambda seed: encoded(scene(seed), "JPEG", exif=Image.Exif()),
    "WebP": lambda seed: encoded(scene(seed), "WEBP"),
    "opaque RGBA": lambda seed: encoded(scene(seed).convert("RGBA")),
}
