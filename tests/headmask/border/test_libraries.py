"""What differs between versions of libraries is the same to us."""

import sys
from types import SimpleNamespace

import pytest
import torch
from open_clip.transform import PreprocessCfg, ToTensor, image_transform_v2
from sqlalchemy.engine import make_url

from headmask.border.libraries import (
    check_sizes,
    cpu_capabilities,
    described,
    has_attention_pooling,
    importable,
    joined,
    same_transform,
    usage_message,
    versions,
    with_driver,
)

END = "MaybeConvertMode(); MaybeToTensor(); Normalize(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))"
LONGEST = "ResizeKeepRatio(size=(28, 28), interpolation=InterpolationMode.BICUBIC), longest=1.000)"


def transform(**options):
    return image_transform_v2(PreprocessCfg(mean=(0.5,) * 3, std=(0.25,) * 3, **options), is_train=False).transforms


@pytest.mark.parametrize(
    ("options", "begin"),
    [
        (
            {"size": 28},
            "Resize(size=28, interpolation=bicubic, max_size=None, antialias=True); CenterCrop(size=(28, 28))",
        ),
        (
            {"size": (28, 56), "resize_mode": "squash", "interpolation": "bilinear"},
            "Resize(size=(28, 56), interpolation=bilinear, max_size=None, antialias=True)",
        ),
        ({"size": 28, "resize_mode": "longest"}, f"{LONGEST}; CenterCropOrPad(size=(28, 28))"),
        (
            {"size": 28, "resize_mode": "longest", "fill_color": 7},
            f"{LONGEST}; CenterCropOrPad(size=(28, 28), fill=7)",
        ),
    ],
)
def test_a_transform_is_described_in_the_words_of_existing_fingerprints(options, begin):
    assert described(transform(**options)) == f"{begin}; {END}"


def _convert_to_rgb(image):
    return image


def test_transforms_of_older_versions_have_the_same_description():
    *steps, _, _, normalise = transform(size=28)
    assert described([*steps, _convert_to_rgb, ToTensor(), normalise]) == described(transform(size=28))


def test_older_descriptions_are_of_the_same_transform():
    now = described(transform(size=28, resize_mode="longest", fill_color=7))
    older = now.replace("MaybeConvertMode()", "<function _convert_to_rgb>").replace("MaybeToTensor", "ToTensor")
    without_fill = older.replace(", fill=7", "").replace("mean=(0.5, 0.5, 0.5)", "mean=[0.5, 0.5, 0.5]")
    assert same_transform(older, now)
    assert same_transform(without_fill, now)
    assert same_transform(now, without_fill)


@pytest.mark.parametrize("other", [{"size": 30}, {"size": 28, "interpolation": "bilinear"}, {"size": 28, "mean": 0.4}])
def test_other_transforms_are_not_the_same(other):
    options = {"mean": 0.5, "std": 0.25, **other}
    others = image_transform_v2(PreprocessCfg(**{**options, "mean": (options["mean"],) * 3}), is_train=False)
    assert not same_transform(described(others.transforms), described(transform(size=28)))


def test_another_fill_is_another_transform():
    one, other = (described(transform(size=28, resize_mode="longest", fill_color=fill)) for fill in (7, 8))
    assert not same_transform(one, other)


def test_versions_name_python_and_what_decides_scores():
    assert versions()["python"] == ".".join(map(str, sys.version_info[:3]))
    assert versions()["torch"] == torch.__version__.split("+")[0]
    assert {"headmask", "open_clip_torch", "timm", "optuna", "numpy", "pillow", "ray"} < set(versions())


def test_versions_are_joined_in_the_order_of_their_use():
    begun = joined({}, {"torch": "2.9"})
    went_on = joined(begun, {"torch": "2.14", "ray": "2.60"})
    assert went_on == {"torch": "2.9, 2.14", "ray": "2.60"}
    assert joined(went_on, {"torch": "2.14", "ray": "2.60"}) == went_on
    assert joined(went_on, {"torch": "2.9", "ray": "2.60"})["torch"] == "2.9, 2.14, 2.9"


@pytest.mark.parametrize(("avx", "amx"), [(True, False), (False, True), (False, False)])
def test_an_older_torch_is_asked_for_the_instructions_that_decide_the_precision(monkeypatch, avx, amx):
    older = SimpleNamespace(_is_avx512_bf16_supported=lambda: avx, _is_amx_tile_supported=lambda: amx)
    monkeypatch.setattr(torch, "cpu", older)
    assert cpu_capabilities() == {"avx512_bf16": avx, "amx_bf16": amx}


def test_postgresql_has_the_same_driver_in_every_version():
    assert make_url(with_driver("postgresql://me@host/db")).get_driver_name() == "psycopg"
    for named in ("postgresql+psycopg2://me@host/db", "mysql+pymysql://me@host/db", "sqlite:///s.db"):
        assert with_driver(named) == named


def test_a_siglip_pools_by_attention_where_its_configuration_does_not_say_otherwise():
    """As in transformers 4.55."""
    assert has_attention_pooling(SimpleNamespace())
    assert has_attention_pooling(SimpleNamespace(vision_use_head=True))
    assert not has_attention_pooling(SimpleNamespace(vision_use_head=False))


class Config:
    """What older versions of transformers read without checking it."""

    def __init__(self):
        self.hidden_size, self.is_deep, self.pad_token_id, self.text_config = 64, True, 1, None


@pytest.mark.parametrize("part", ["whole", "text_config", "vision_config"])
@pytest.mark.parametrize("size", ["wide", 64.5, None])
def test_sizes_that_are_no_whole_numbers_are_named(part, size):
    config = tower = Config()
    config.pad_token_id = None
    check_sizes(config)
    if part != "whole":
        tower = Config()
        setattr(config, part, tower)
        check_sizes(config)
    tower.hidden_size = size
    with pytest.raises(TypeError, match=f"hidden_size must be a whole number; got {size!r}"):
        check_sizes(config)


def test_modules_of_a_folder_are_importable_in_a_block_alone(tmp_path):
    (tmp_path / "of_this_test.py").write_text("NUMBER = 7")
    with importable(str(tmp_path)):
        from of_this_test import NUMBER
    assert NUMBER == 7
    assert str(tmp_path) not in sys.path


def test_typer_names_no_environment_variable_that_there_is_not():
    said = "Invalid value for '--mask' (env var: 'None'): a path cannot be empty"
    assert usage_message(said) == "Invalid value for '--mask': a path cannot be empty"
