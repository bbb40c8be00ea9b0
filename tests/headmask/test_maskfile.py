"""Mask files: everything needed to use a mask, and one message for whatever is wrong with one."""

import json

import pytest
import torch

from headmask.errors import MaskFileError
from headmask.maskfile import Grid, MaskFile, ModelReference

REFERENCE = ModelReference(name="ViT-B-32", pretrained="openai", weights_sha256="a" * 64)


def mask_file(**changes):
    content = {"model": REFERENCE, "grid": Grid(layers=3, heads=4), "heads": ("L2H1", "L0H3")}
    return MaskFile(**{**content, **changes})


def test_a_file_reads_back_as_it_was_written(tmp_path):
    written = mask_file(objective="mean_recall", study="first", versions={"torch": "2.14"})
    written.write(tmp_path / "mask.json")
    assert MaskFile.read(tmp_path / "mask.json") == written
    assert json.loads((tmp_path / "mask.json").read_text())["format"] == "headmask/1"
    assert [path.name for path in tmp_path.iterdir()] == ["mask.json"]


def test_an_earlier_file_with_gates_is_read(tmp_path):
    content = mask_file(scales={"L0H3": 0.25, "L2H1": 0.0}).model_dump(mode="json")
    assert MaskFile.model_validate(content).scales == {"L0H3": 0.25, "L2H1": 0.0}
    del content["scales"]
    for gates in (None, {"L0H3": 0.9, "L2H1": 1.0}):
        (tmp_path / "mask.json").write_text(json.dumps({**content, "gates": gates}))
        assert MaskFile.read(tmp_path / "mask.json") == mask_file()


def test_heads_are_sorted_by_layer():
    assert mask_file().heads == ("L0H3", "L2H1")


def test_means_come_back_as_a_tensor_to_the_last_bit(tmp_path):
    mean = torch.randn(8).tolist()
    written = mask_file(ablation="mean", heads=("L1H2",), means={"L1H2": mean})
    written.write(tmp_path / "mask.json")
    means = MaskFile.read(tmp_path / "mask.json").means_tensor()
    assert means.shape == (3, 4, 8)
    assert means[1, 2].tolist() == mean


def test_another_model_is_refused_with_both_sides():
    with pytest.raises(
        MaskFileError, match=r"made for ViT-B-32 \(openai\) with weights aaaaaaaaaaaa; other has weights bb"
    ):
        mask_file().check_model(ModelReference(name="other", weights_sha256="b" * 64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "headmask/9"}, "format 'headmask/1'; got 'headmask/9'"),
        ({"heads": ["L9H0"]}, "L9H0 is not on grid 3x4"),
        ({"heads": ["nonsense"]}, "a head is written"),
        ({"heads": ["L0H0", "L0H0"]}, "listed twice"),
        ({"ablation": "half"}, "ablation: must be 'zero', 'mean', 'uniform' or 'cls'"),
        ({"ablation": "mean"}, "needs the means of every listed head; missing L0H3, L2H1"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"grid": {"layers": 0, "heads": 4}}, "grid.layers: must be greater than or equal to 1"),
        ({"model": {"name": "x", "weights_sha256": "short"}}, "model.weights_sha256"),
    ],
)
def test_a_malformed_file_is_one_clear_message(tmp_path, change, message):
    content = {**mask_file().model_dump(mode="json"), **change}
    (tmp_path / "mask.json").write_text(json.dumps(content))
    with pytest.raises(MaskFileError, match=message):
        MaskFile.read(tmp_path / "mask.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not JSON"),
        (b"[]", "got 'list'"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"{}", "format 'headmask/1'; got None"),
    ],
)
def test_a_file_that_is_something_else_is_one_clear_message(tmp_path, content, message):
    (tmp_path / "mask.json").write_bytes(content)
    with pytest.raises(MaskFileError, match=message):
        MaskFile.read(tmp_path / "mask.json")


def test_a_missing_file_is_one_clear_message(tmp_path):
    with pytest.raises(MaskFileError, match="there is no mask file at"):
        MaskFile.read(tmp_path / "none.json")
