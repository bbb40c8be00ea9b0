"""Every architecture of open_clip is supported, or refused for a reason."""

import open_clip
import pytest

from headmask.mask import HeadGrid
from headmask.models.catalogue import architectures

IMAGE = {
    "ViT-B-32": HeadGrid(12, 12),
    "ViT-SO400M-14-SigLIP-384": HeadGrid(27, 16),
    "EVA02-L-14": HeadGrid(24, 16),
    "PE-Core-B-16": HeadGrid(12, 12),
    "ViT-bigG-14-CLIPA": HeadGrid(48, 16),
    "RN50": "a ModifiedResNet",
    "convnext_base": "timm's ConvNeXt",
    "MobileCLIP-S1": "timm's FastVit",
}
TEXT = {
    "ViT-B-32": HeadGrid(12, 8),
    "coca_ViT-L-14": HeadGrid(12, 12),
    "roberta-ViT-B-32": "a Hugging Face text tower (roberta-base)",
}


def test_architectures_have_grids_or_a_reason(monkeypatch):
    monkeypatch.setattr(open_clip, "list_models", lambda: [*dict.fromkeys((*IMAGE, *TEXT))])
    found = {each.name: each for each in architectures()}
    assert {name: found[name].image for name in IMAGE} == IMAGE
    assert {name: found[name].text for name in TEXT} == TEXT
    assert found["RN50"].grid("image") is None


@pytest.mark.slow
def test_every_architecture_has_grids_or_a_reason():
    found = {each.name: each for each in architectures()}
    assert list(found) == open_clip.list_models()
    for each in found.values():
        for tower in (each.image, each.text):
            assert isinstance(tower, HeadGrid) or tower
    assert sum(each.grid("image") is not None for each in found.values()) >= 115
    assert sum(each.grid("text") is not None for each in found.values()) >= 134
