"""What becomes of one image under both pixel rules, with open_clip's own transform as the oracle."""

import io

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from headmask.errors import DataError
from headmask.pixels.images import by_rule, decode_image
from tests.odd_images import ODD, PLAIN, encoded, resizes_wide, scene, transparent, wide
from workers.data.preprocess import UInt8Preprocess, look
from workers.scoring.inputs import Normalisation

STOCK = image_transform_v2(PreprocessCfg(size=28), is_train=False)
COMPOSITED = by_rule(STOCK, "composited")


def scored(transform, content):
    """Return what the engine computes with."""
    preprocess = UInt8Preprocess(transform)
    crop = look(content, "x", preprocess).crop
    return Normalisation(preprocess.mean, preprocess.std)(crop[None], torch.device("cpu"))[0]


@pytest.mark.parametrize("transform", [STOCK, COMPOSITED], ids=["stock", "composited"])
@pytest.mark.parametrize("kind", [*ODD, *PLAIN])
def test_what_is_scored_is_what_the_transform_that_is_handed_out_makes_of_the_opened_image(kind, transform):
    content = (ODD | PLAIN)[kind](1)
    with Image.open(io.BytesIO(content)) as image:
        assert torch.equal(scored(transform, content), transform(image))


@pytest.mark.parametrize("kind", ODD)
def test_composited_pixels_are_open_clips_of_the_image_on_white(kind):
    content = ODD[kind](1)
    assert torch.equal(scored(COMPOSITED, content), STOCK(decode_image(content, "x")))


@pytest.mark.parametrize("kind", ODD)
def test_images_whose_pixels_depend_on_the_rule_are_found_under_both(kind):
    content = ODD[kind](1)
    assert [look(content, "x", UInt8Preprocess(each)).differs for each in (STOCK, COMPOSITED)] == [True, True]


@pytest.mark.parametrize("kind", PLAIN)
def test_ordinary_images_are_the_same_under_both_rules(kind):
    content = PLAIN[kind](1)
    stock, composited = (look(content, "x", UInt8Preprocess(each)) for each in (STOCK, COMPOSITED))
    assert not stock.differs
    assert not composited.differs
    assert np.array_equal(stock.crop, composited.crop)
    assert stock.digest == composited.digest == composited.source


def test_files_that_show_the_same_have_one_digest_but_another_source_where_they_are_resized_otherwise():
    preprocess = UInt8Preprocess(STOCK)
    few = scene(1).quantize(16)
    as_palette, as_rgb = (look(encoded(image), "x", preprocess) for image in (few, few.convert("RGB")))
    assert as_palette.digest == as_rgb.digest
    assert as_palette.source != as_rgb.source
    icons = [look(ODD["cut_out"](seed), "x", preprocess) for seed in (1, 2)]
    assert icons[0].digest != icons[1].digest


def test_a_png_with_broken_pixels_is_not_taken_for_a_black_one():
    content = encoded(scene(1))
    place = content.index(b"IDAT") + 12
    broken = content[:place] + bytes(20) + content[place + 20 :]
    for transform in (STOCK, COMPOSITED):
        with pytest.raises(DataError, match="row 3: cannot be read as an image"):
            look(broken, "row 3", UInt8Preprocess(transform))
    with pytest.raises(DataError, match="row 3: cannot be read as an image"):
        look(encoded(scene(1).quantize(16), "GIF")[:120], "row 3", UInt8Preprocess(STOCK))


def test_constant_and_clipped_images_are_told():
    preprocess = UInt8Preprocess(STOCK)
    assert look(ODD["cut_out"](1), "x", preprocess).constant
    assert not look(ODD["cut_out"](1), "x", UInt8Preprocess(COMPOSITED)).constant
    dim = Image.fromarray(np.random.default_rng(0).random((30, 40), np.float32))
    assert look(encoded(dim, "TIFF"), "x", preprocess).constant
    assert not look(transparent(1), "x", preprocess).constant


@pytest.mark.skipif(not resizes_wide(), reason="this Pillow does not resize images of 16 bits")
def test_wide_values_that_stock_open_clip_cuts_off_are_told():
    white = look(wide(1), "x", UInt8Preprocess(STOCK))
    assert white.clipped
    assert white.constant


def test_what_one_rule_cannot_score_names_the_other():
    unknown = encoded(Image.fromarray(np.random.default_rng(0).random((30, 40), np.float32)), "TIFF")
    with pytest.raises(DataError, match=r"^row 3: its values, .* are floating-point numbers.*--pixels stock$"):
        look(unknown, "row 3", UInt8Preprocess(COMPOSITED))


@pytest.mark.parametrize("mode", ["shortest", "longest"])
@pytest.mark.parametrize("size", [(800_000, 1), (1, 800_000)])
def test_an_image_too_thin_for_the_transform_is_refused_before_it_is_decoded(mode, size):
    preprocess = UInt8Preprocess(image_transform_v2(PreprocessCfg(size=28, resize_mode=mode), is_train=False))
    content = encoded(Image.new("1", size))
    with pytest.raises(DataError, match=r"row 3: .* pixels would be resized to .*; crop the image"):
        look(content, "row 3", preprocess)
