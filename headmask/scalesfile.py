"""The scales file `headmask-scales/1`: a factor per head as JSON, with everything that a mask file has."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import Field, field_validator

from headmask.border.kinds import MASK_FILE, SCALES, SCALES_FILE
from headmask.border.reading import read_json
from headmask.border.shown import counted, shown
from headmask.errors import MaskFileError
from headmask.mask import Head
from headmask.maskfile import HeadFile, MaskFile
from headmask.scales import HIGHEST, HeadScales

Scale = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0, le=HIGHEST)]


class ScalesFile(HeadFile):
    """A validated scales file; read one with `ScalesFile.read`.

    Raises:
        ValidationError: from pydantic, when built from bad values; `read` turns it into a `MaskFileError`.
    """

    KIND, FORMAT, NAME, THIS = SCALES_FILE, "headmask-scales/1", SCALES, "these scales were"
    DOING, DONE, MADE_BY = "scaling", "scaled", "refinement"

    format: Literal["headmask-scales/1"] = "headmask-scales/1"
    heads: dict[str, Scale]
    """By `L3H7`, the scale of every changed head: 0 ablates it, below 1 it is weakened, above 1 strengthened."""
    refined: tuple[str, ...] | None = None
    """Heads of the mask that training began from, if it began from one."""

    @field_validator("heads")
    @classmethod
    def _heads_parse(cls, heads: dict[str, float]) -> dict[str, float]:
        parsed = {Head.parse(text): scale for text, scale in heads.items()}
        if len(parsed) != len(heads):
            raise ValueError("heads are listed twice")
        return {str(head): scale for head, scale in sorted(parsed.items()) if scale != 1}

    @property
    def head_scales(self) -> HeadScales:
        """The factor on every head."""
        return HeadScales.from_texts(self.head_grid, self.heads)

    @property
    def summary(self) -> str:
        """How many heads are scaled, and how many of them ablated."""
        ablated = list(self.heads.values()).count(0)
        scaled = f"{counted(len(self.heads), 'head')} scaled"
        return f"{scaled}, {ablated} of them ablated" if ablated else scaled


def read_head_file(path: str | os.PathLike[str]) -> MaskFile | ScalesFile:
    """Return the mask file or scales file at a path, whichever it is.

    Raises:
        MaskFileError: it is neither; all mistakes are listed.
    """
    # Until its content says so, the name says what it was meant to be.
    what = SCALES_FILE.noun if "scales" in os.path.basename(path) else MASK_FILE.noun
    content = read_json(path, what, MaskFileError)
    found = content.get("format") if isinstance(content, dict) else type(content).__name__
    if found == ScalesFile.FORMAT:
        return ScalesFile.parsed(content, path)
    if found == MaskFile.FORMAT:
        return MaskFile.parsed(content, path)
    raise MaskFileError(
        f"{what} {shown(path)} must be a JSON object with format {MaskFile.FORMAT!r} or "
        f"{ScalesFile.FORMAT!r}; got {shown(repr(found))[:80]}"
    )
