"""When a search stops. Nothing here decides what is proposed, so budgets are no part of a study's fingerprint.

A block is begun unless the budget is spent. All but the seconds depend on nothing but the study itself, so that a
study stops at the same mask with any number of replicas, killed and resumed or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from headmask.border.shown import counted

StopReason = Literal["masks", "exhausted", "patience", "image_forwards", "seconds"]

STOPS: dict[StopReason, str] = {
    "masks": "at the budget of masks",
    "exhausted": "because no mask was left that the strategy could propose",
    "patience": "because as many blocks as --patience allows brought no better mask",
    "image_forwards": "at the end of the block in which the budget of image forwards ran out",
    "seconds": "at the end of the block in which the seconds ran out",
}
"""Why a search stopped, in words."""


@dataclass(frozen=True)
class Budget:
    """What a search may take: a number of masks, and further limits that end it after a whole block.

    Args:
        masks: distinct masks.
        seconds: of this run of the driver.
        image_forwards: plain forward passes of one image (or text), as predicted for the masks of whole blocks.
        patience: blocks in a row that bring no better mask.
    """

    masks: int
    seconds: float | None = None
    image_forwards: float | None = None
    patience: int | None = None

    def __str__(self) -> str:
        limits = {
            ("s", "s"): self.seconds,
            ("image forward", "image forwards"): self.image_forwards,
            ("block without a better mask", "blocks without a better mask"): self.patience,
        }
        parts = [
            counted(self.masks, "mask"),
            *(f"{limit:,} {units[limit != 1]}" for units, limit in limits.items() if limit is not None),
        ]
        return " or ".join(parts) + (", whichever comes first" if len(parts) > 1 else "")

    def spent(
        self, *, num_masks: int, image_forwards: float, blocks_without_gain: int, seconds: float
    ) -> StopReason | None:
        """Return what keeps a search from beginning another block; None if nothing does."""
        if num_masks >= self.masks:
            return "masks"
        if self.patience is not None and blocks_without_gain >= self.patience:
            return "patience"
        if self.image_forwards is not None and image_forwards >= self.image_forwards:
            return "image_forwards"
        if self.seconds is not None and seconds >= self.seconds:
            return "seconds"
        return None
