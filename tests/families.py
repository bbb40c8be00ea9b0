"""A small random-weight tower of every family that headmask supports, and of those that it refuses."""

from __future__ import annotations

import timm
import torch
from open_clip.coca_model import CoCa
from open_clip.model import CustomTextCLIP
from open_clip.timm_model import TimmModel
from open_clip.transformer import TextTransformer
from torch import nn

from tests.tiny import TEXT, VISION, tiny_clip

STD = 0.15
"""Of attention weights: every head matters, and rounding is not amplified."""
SMALL = {"embed_dim": 32, "depth": 3, "num_heads": 4, "img_size": 32, "patch_size": 8, "num_classes": 24}
COCA = {"context_length": 12, "vocab_size": 64, "width": 24, "heads": 2, "layers": 2}

OPEN_CLIP = {
    "multihead attention": {},
    "custom attention": {"block_type": "custom"},
    "layer scale": {"ls_init_value": 0.5},
    "query and key norms": {"qk_norm": True},
    "head scale": {"scale_heads": True},
    "inner norm": {"scale_attn_inner": True},
    "attention and MLP norms": {"scale_attn": True, "scale_fc": True},
    "no pre-norm": {"no_ln_pre": True},
    "patch dropout": {"patch_dropout": 0.5},
    "sine positions": {"pos_embed_type": "sin_cos_2d"},
    "average pooling": {"pool_type": "avg"},
    "CLIPA": {"pool_type": "avg", "final_ln_after_pool": True, "no_ln_pre": True},
    "attentional pooling": {"attentional_pool": True, "attn_pooler_heads": 4},
    "attentional average pooling": {"attentional_pool": True, "attn_pooler_heads": 4, "pool_type": "avg"},
}
TIMM = {
    "SigLIP": ("vit_base_patch16_siglip_224", {"num_classes": 0}),
    "SigLIP2": ("vit_base_patch16_siglip_384", {"num_classes": 0}),
    "SigLIP, gap": ("vit_base_patch16_siglip_gap_224", {"num_classes": 0}),
    "timm CLIP": ("vit_base_patch32_clip_224", {}),
    "timm average pooling": ("vit_medium_patch16_gap_256", {}),
    "timm register tokens": ("vit_medium_patch16_reg4_gap_256", {}),
    "timm query and key norms": ("vit_base_patch16_224", {"qk_norm": True}),
    "timm inner norm": ("vit_base_patch16_224", {"scale_attn_norm": True}),
    "EVA01": ("eva_giant_patch14_clip_224", {}),
    "EVA02": ("eva02_base_patch16_clip_224", {}),
    "EVA02, post-norm": ("eva02_enormous_patch14_clip_224", {}),
    "PE": ("vit_pe_core_base_patch16_224", {}),
}
REFUSED = {
    "ResNet": ("resnet18", {"num_classes": 24}),
    "ConvNeXt": ("convnext_atto", {"num_classes": 24}),
    "FastVit": ("fastvit_t8", {"num_classes": 24}),
    "SwinTransformer": ("swin_tiny_patch4_window7_224", {"num_classes": 24}),
    "VisionTransformerRelPos": ("vit_relpos_small_patch16_224", {"num_classes": 24}),
}
FAMILIES = [*OPEN_CLIP, *TIMM, "CoCa"]
TEXT_FAMILIES = {
    "causal, end of text": {},
    "causal, last": {"pool_type": "last"},
    "SigLIP": {"no_causal_mask": True, "pool_type": "last", "proj_bias": True},
    "CLIPA": {"no_causal_mask": True, "pool_type": "last"},
    "first": {"no_causal_mask": True, "pool_type": "first"},
    "worldwide": {"pool_type": "eos", "eos_id": 63},
    "MobileCLIP": {"no_causal_mask": True},
    "padding mask": {"no_causal_mask": True, "use_pad_mask": True},
    "class embedding": {"embed_cls": True},
    "correct class mask": {"embed_cls": True, "correct_cls_mask": True},
    "text layer scale": {"ls_init_value": 0.5},
    "text inner norm": {"scale_attn_inner": True},
}


def family(name: str, seed: int = 0) -> nn.Module:
    """Return a small model, with an image tower of a family, in which every head matters."""
    if name in OPEN_CLIP:
        return tiny_clip(seed, std=STD, **OPEN_CLIP[name])
    torch.manual_seed(seed)
    if name == "CoCa":
        vision = {**VISION, "attentional_pool": True, "attn_pooler_heads": 4, "output_tokens": True}
        text = {**COCA, "embed_cls": True, "output_tokens": True}
        return _lively(CoCa(24, multimodal_cfg=dict(COCA), text_cfg=text, vision_cfg=vision))
    model = CustomTextCLIP(24, vision_cfg=VISION, text_cfg={**TEXT, "vocab_size": 64})
    model.visual = timm_tower(*TIMM[name])
    return _lively(model)


def timm_tower(name: str, changes: dict) -> TimmModel:
    """Return open_clip's wrapper around a timm model, made small where it is a transformer."""
    tower = TimmModel.__new__(TimmModel)
    nn.Module.__init__(tower)
    is_transformer = (name, changes) not in REFUSED.values()
    tower.trunk = timm.create_model(name, **{**(SMALL if is_transformer else {}), **changes})
    tower.head = nn.Sequential()
    tower.image_size = (32, 32)
    return tower.requires_grad_(False).eval()


def text_family(name: str, seed: int = 0) -> nn.Module:
    """Return a small model with a text tower of a family, in which every head matters."""
    if not TEXT_FAMILIES[name]:
        return tiny_clip(seed, std=STD)
    torch.manual_seed(seed)
    model = CustomTextCLIP(24, vision_cfg=VISION, text_cfg={**TEXT, "vocab_size": 64})
    model.text = TextTransformer(**{**TEXT, "vocab_size": 64}, output_dim=24, **TEXT_FAMILIES[name])
    return _lively(model)


def tokens(count: int, seed: int = 0) -> torch.Tensor:
    """Return texts of different lengths (count, 12): random ids, the highest as end of text, then padding."""
    generator = torch.Generator().manual_seed(seed)
    texts = torch.zeros(count, 12, dtype=torch.int64)
    for row in range(count):
        length = 3 + row % 9
        texts[row, :length] = torch.randint(8, 60, (length,), generator=generator)
        texts[row, length] = 63
    return texts


def _lively(model: nn.Module) -> nn.Module:
    """Give attention, layer scales and positions a size at which every head changes the embedding."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            of_attention = "attn" in name and "norm" not in name and "ln" not in name
            if of_attention or any(part in name for part in ("latent", "pos_embed", "cls_token", "gamma")):
                parameter.normal_(std=STD)
    return model.requires_grad_(False).eval()
