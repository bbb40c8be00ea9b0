"""GELU and QuickGELU: weights trained with one and run with the other lose points."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from open_clip.transformer import QuickGELU
from torch import nn


def gelu_names(model: nn.Module) -> tuple[str, str] | None:
    """Return the name of a model's GELU and of the other one; None if it has neither, or both."""
    kinds = {type(child) for _, _, child in _places(model)}
    if len(kinds) != 1:
        return None
    return ("QuickGELU", "GELU") if kinds == {QuickGELU} else ("GELU", "QuickGELU")


def swap_gelu(tower: nn.Module) -> None:
    """Replace every GELU of a tower by QuickGELU, and every QuickGELU by GELU."""
    for module, name, child in _places(tower):
        setattr(module, name, nn.GELU() if type(child) is QuickGELU else QuickGELU())


@contextmanager
def other_gelu(tower: nn.Module) -> Iterator[None]:
    """Swap GELU and QuickGELU in a tower, and put back what was there."""
    places = _places(tower)
    try:
        swap_gelu(tower)
        yield
    finally:
        for module, name, child in places:
            setattr(module, name, child)


def _places(model: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    return [
        (module, name, child)
        for module in model.modules()
        for name, child in module.named_children()
        if type(child) in (nn.GELU, QuickGELU)
    ]
