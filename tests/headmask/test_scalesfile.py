"""The scales file: what it keeps, and that nothing malformed is read."""

import json

import pytest

import headmask
from headmask.errors import MaskFileError
from headmask.mask import Head
from headmask.maskfile import Grid, MaskFile, ModelReference
from headmask.scalesfile import ScalesFile, read_head_file

MODEL = ModelReference(name="ViT-B-32", weights_sha256="0" * 64)


def content(**changes):
    whole = ScalesFile(model=MODEL, grid=Grid(layers=2, heads=3), heads={"L1H2": 1.5, "L0H1": 0.25, "L0H0": 1.0})
    return {**json.loads(whole.model_dump_json()), **changes}


def test_heads_are_sorted_and_those_of_scale_1_left_out(tmp_path):
    path = tmp_path / "scales.json"
    headmask.ScalesFile.model_validate(content()).write(path)
    assert json.loads(path.read_text())["heads"] == {"L0H1": 0.25, "L1H2": 1.5}
    read = ScalesFile.read(path)
    assert read.head_scales.heads == {Head(0, 1): 0.25, Head(1, 2): 1.5}
    assert (read.summary, read.mask.is_empty) == ("2 heads scaled", True)
    assert read_head_file(path) == read


def test_a_mask_file_is_read_as_what_it_is(tmp_path):
    mask = MaskFile(model=MODEL, grid=Grid(layers=2, heads=3), heads=("L0H1",))
    mask.write(tmp_path / "mask.json")
    read = read_head_file(tmp_path / "mask.json")
    assert (read, read.head_scales.heads, read.summary) == (mask, {Head(0, 1): 0.0}, "1 head ablated")


def test_what_is_ablated_is_said():
    assert ScalesFile.model_validate(content(heads={"L0H1": 0, "L1H1": 0.5})).summary == (
        "2 heads scaled, 1 of them ablated"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": {"L0H1": -1}}, r"heads.L0H1: must be greater than or equal to 0, got -1"),
        ({"heads": {"L0H1": 3.5}}, r"heads.L0H1: must be less than or equal to 3, got 3.5"),
        ({"heads": {"L0H1": "half"}}, r"heads.L0H1: must be a valid number, got 'half'"),
        ({"heads": {"L0": 0.5}}, "a head is written L<layer>H<head>"),
        ({"heads": {"L0H1": 0.5, "l0h1": 0.4}}, "heads are listed twice"),
        ({"heads": {"L2H0": 0.5}}, "L2H0 is not on grid 2x3"),
        ({"heads": ["L0H1"]}, r"heads: must be"),
        ({"ablation": "mean"}, "ablation mean needs the means of every listed head; missing L0H1, L1H2"),
        ({"format": "headmask/2"}, r"must be a JSON object with format 'headmask-scales/1'; got 'headmask/2'"),
    ],
)
def test_what_is_malformed_is_refused(tmp_path, changes, message):
    path = tmp_path / "scales.json"
    path.write_text(json.dumps(content(**changes)))
    with pytest.raises(MaskFileError, match=message):
        ScalesFile.read(path)


def test_neither_a_mask_file_nor_a_scales_file_is_refused(tmp_path):
    path = tmp_path / "other.json"
    path.write_text("[]")
    with pytest.raises(MaskFileError, match="must be a JSON object with format 'headmask/1' or 'headmask-scales/1'"):
        read_head_file(path)


def test_other_weights_are_refused():
    other = ModelReference(name="ViT-B-32", weights_sha256="1" * 64)
    with pytest.raises(MaskFileError, match=r"these scales were made for ViT-B-32 with weights 0{12}"):
        ScalesFile.model_validate(content()).check_model(other)
