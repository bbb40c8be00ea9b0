"""Every architecture of open_clip is supported, or refused for a reason."""

import open_clip

from headmask.catalogue import architectures
from headmask.mask import HeadGrid


def test_every_architecture_has_grids_or_a_reason():
    found = {each.name: each for each in architectures()}
    assert list(found) == open_clip.list_models()
    assert found["ViT-B-32"].image == HeadGrid(12, 12)
    assert found["ViT-B-32"].text == HeadGrid(12, 8)
    assert found["ViT-SO400M-14-SigLIP-384"].image == HeadGrid(27, 16)
    assert found["EVA02-L-14"].grid("image") == HeadGrid(24, 16)
    assert found["PE-Core-B-16"].image == HeadGrid(12, 12)
    assert found["coca_ViT-L-14"].text == HeadGrid(12, 12)
    assert found["ViT-bigG-14-CLIPA"].image == HeadGrid(48, 16)
    assert found["RN50"].image == "a ModifiedResNet"
    assert found["RN50"].grid("image") is None
    assert found["convnext_base"].image == "timm's ConvNeXt"
    assert found["MobileCLIP-S1"].image == "timm's FastVit"
    assert found["roberta-ViT-B-32"].text == "a Hugging Face text tower (roberta-base)"
    for each in found.values():
        for tower in (each.image, each.text):
            assert isinstance(tower, HeadGrid) or tower
    assert sum(each.grid("image") is not None for each in found.values()) >= 115
    assert sum(each.grid("text") is not None for each in found.values()) >= 134
