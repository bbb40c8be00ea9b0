"""Remarks on the images of a data set: pixels that depend on the rule, almost one colour, values cut off."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from headmask.border.shown import counted
from headmask.pixels.images import PixelRule

if TYPE_CHECKING:
    from workers.data.pixels import Remarks


class ImageRemarks(BaseModel):
    """Number of images of a data set with each remark."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_images: int
    num_differing: int = Field(description="images for which the two pixel rules give different pixels")
    num_constant: int = Field(description="images of almost one colour")
    num_clipped: int = Field(description="images whose values beyond 8 bits are cut off")

    @classmethod
    def of(cls, num_images: int, remarks: Iterable[Remarks]) -> ImageRemarks:
        """Return the counts over some splits of a data set."""
        all_of = list(remarks)
        return cls(
            num_images=num_images,
            num_differing=sum(len(each.differing) for each in all_of),
            num_constant=sum(len(each.constant) for each in all_of),
            num_clipped=sum(len(each.clipped) for each in all_of),
        )

    def sentences(self, rule: PixelRule, name: str) -> Iterator[str]:
        """Yield the remarks for a data set that is scored under a pixel rule; none for ordinary images."""
        if self.num_differing:
            have = _have(self.num_differing)
            yield (
                f"{counted(self.num_differing, 'image')} of {self.num_images:,} in {name} {have} other pixels under "
                f"stock open_clip than composited (upright, on white, scaled to 8 bits). {_ADVICE[rule]}"
            )
        if self.num_clipped:
            yield (
                f"{counted(self.num_clipped, 'image')} in {name} {_have(self.num_clipped)} values of more than 8 "
                "bits, which stock open_clip cuts off at 255: save them with 8 bits, or score with --pixels composited"
            )
        if self.num_constant:
            yield (
                f"{counted(self.num_constant, 'image')} in {name} {_have(self.num_constant)} almost one colour; "
                "`headmask data show` names them"
            )


_ADVICE: dict[PixelRule, str] = {
    "stock": "They are scored as stock open_clip has them, as for everyone who loads the exported model there; "
    "--pixels composited scores them composited",
    "composited": "They are scored composited, so the exported model must be given such images, too: "
    "headmask.load_model on its folder does that, open_clip alone does not",
}


def _have(count: int) -> str:
    return "has" if count == 1 else "have"
