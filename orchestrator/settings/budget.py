"""When a search stops. A budget has no effect on what is proposed, so it is not part of a study's fingerprint.

A block is begun unless the budget is spent. All limits except the seconds depend only on the study itself, so a study
stops at the same mask with any number of replicas, even if it is killed and resumed.
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
    """What a search may use: a number of masks, and further limits that end it after a complete block.

    Args:
        masks: number of distinct masks.
        seconds: wall-clock time of this run of the driver.
        image_forwards: plain forward passes of one image (or text), as predicted for the masks of whole blocks.
        patience: number of blocks in a row without a better mask.
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
        """Return why a search may not begin another block; None if it may."""
        if num_masks >= self.masks:
            return "masks"
        if self.patience is not None and blocks_without_gain >= self.patience:
            return "patience"
        if self.image_forwards is not None and image_forwards >= self.image_forwards:
            return "image_forwards"
        if self.seconds is not None and seconds >= self.seconds:
            return "seconds"
        return None
