"""The mask file `headmask/1`: a mask as JSON, with everything needed to use it and to judge it.

`HeadFile` is what it has in common with the scales file of `headmask.scalesfile`.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from headmask.ablation.rules import ABLATIONS, AblationName
from headmask.border.kinds import MASK, MASK_FILE, Kind
from headmask.border.reading import parse_model, read_json
from headmask.border.schemes import folder_of
from headmask.border.shown import counted, shown
from headmask.border.writing import write_text
from headmask.errors import MaskFileError
from headmask.mask import Head, HeadGrid, HeadMask
from headmask.pixels.preprocessing import Preprocessing
from headmask.scales import HeadScales

if TYPE_CHECKING:
    from torch import Tensor

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ModelReference(_Part):
    """The model that a mask was made for."""

    name: str
    """open_clip architecture, or `local-dir:`, `hf-dir:` or `hf-hub:` with a folder or repository."""
    pretrained: str | None = None
    """Pretrained tag or checkpoint file; None where the name's scheme brings the weights."""
    weights_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Digest of the weights as loaded; see `headmask.models.loading.weights_digest`."""
    preprocess: Preprocessing | None = None
    """How images were prepared for the model; None in files older than this field."""

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths of the model's files, if it has any: the folder or architecture, and the checkpoint."""
        folder = folder_of(self.name)
        return tuple(filter(None, (self.name if folder is None else folder, self.pretrained)))

    def __str__(self) -> str:
        return self.name if self.pretrained is None else f"{self.name} ({self.pretrained})"

    @property
    def short(self) -> str:
        """The name without folders, suitable for sharing."""
        folder = folder_of(self.name)
        if folder is None and self.name.endswith(".json"):
            folder = self.name
        name = self.name if folder is None else folder.rstrip("/").rpartition("/")[2]
        return name if self.pretrained is None else f"{name} ({self.pretrained.rpartition('/')[2]})"


class Grid(_Part):
    """Layers and heads of the tower."""

    layers: Annotated[int, Field(strict=True, ge=1, le=1000)]
    heads: Annotated[int, Field(strict=True, ge=1, le=1000)]


class SplitScores(_Part):
    """Scores of the mask and of the baseline on one split."""

    baseline: dict[str, Number]
    selected: dict[str, Number]
    interval: tuple[Number, Number] | None = None
    """Two-sided 95 % interval of the objective's delta, if computed."""
    p_value: Number | None = None
    """P-value of the two-sided sign-flip permutation test of the objective's delta, if computed."""


class SplitReference(_Part):
    """One split of a data set."""

    digest: str
    num_images: Count
    num_captions: Count
    """Number of captions; for classification, of prompts."""


class DataReference(_Part):
    """A data set that the mask was searched on."""

    name: str
    splits: dict[str, SplitReference]


class HeadFile(_Part, ABC):
    """What a mask file and a scales file have in common: the model, its tower, the changed heads, and their scores."""

    KIND: ClassVar[Kind]
    FORMAT: ClassVar[str]
    NAME: ClassVar[str]
    """Name of such a file in a folder of ours."""
    THIS: ClassVar[str]
    """Beginning of a sentence about it."""
    DOING: ClassVar[str]
    DONE: ClassVar[str]
    """What happens to its heads: `ablating` and `ablated`."""
    MADE_BY: ClassVar[str]
    """The kind of work that it comes from."""

    format: str
    model: ModelReference
    tower: Literal["image", "text"] = "image"
    grid: Grid
    ablation: AblationName = "zero"
    heads: Any
    means: dict[str, list[Number]] | None = None
    """For the ablation `mean`: the mean output of every changed head, by `L3H7`."""
    pixels: Literal["stock", "composited"] = "composited"
    """The pixel rule that images were scored under (see `headmask.pixels.images`); None in older files."""
    objective: str | None = None
    verdict: Literal["reliable improvement", "no reliable improvement"] | None = None
    """Verdict of the search or refinement that it comes from."""
    scores: dict[str, SplitScores] = {}
    data: tuple[DataReference, ...] = ()
    """The data sets that it was searched or trained on."""
    study: str | None = None
    run: str | None = None
    """MLflow run id of the search or refinement."""
    versions: dict[str, str] = {}

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        missing = set(self.heads) - set(self.means or {})
        if ABLATIONS[self.ablation].needs_means and missing:
            listed = ", ".join(sorted(missing))
            raise ValueError(f"ablation {self.ablation} needs the means of every listed head; missing {listed}")
        if self.means and len({len(mean) for mean in self.means.values()}) > 1:
            raise ValueError("means of different widths")
        HeadMask.from_heads(self.head_grid, map(Head.parse, self.means or ()))
        _ = self.head_scales
        return self

    @property
    @abstractmethod
    def head_scales(self) -> HeadScales:
        """The factor on every head."""

    @property
    @abstractmethod
    def summary(self) -> str:
        """What is done to how many heads, in a few words."""

    @property
    def mask(self) -> HeadMask:
        """The mask of the heads that are ablated."""
        return self.head_scales.ablated

    @property
    def head_grid(self) -> HeadGrid:
        """The grid as the rest of headmask uses it."""
        return HeadGrid(self.grid.layers, self.grid.heads)

    def means_tensor(self) -> Tensor | None:
        """Return the means as (layers, heads, head width) float32, zero for kept heads; None without means."""
        if not self.means:
            return None
        import torch

        width = len(next(iter(self.means.values())))
        means_LHd = torch.zeros(self.grid.layers, self.grid.heads, width)
        for text, mean in self.means.items():
            means_LHd[Head.parse(text)] = torch.tensor(mean)
        return means_LHd

    def check_model(self, loaded: ModelReference) -> None:
        """Check that the file belongs to a model, by its weights and its preprocessing.

        Raises:
            MaskFileError: the weights or the preprocessing differ; the message shows both sides.
        """
        if loaded.weights_sha256 != self.model.weights_sha256:
            raise MaskFileError(
                f"{self.THIS} made for {shown(self.model)} with weights {self.model.weights_sha256[:12]}; "
                f"{shown(loaded)} has weights {loaded.weights_sha256[:12]}. Load the model it was made for"
            )
        made, now = self.model.preprocess, loaded.preprocess
        if made is not None and now is not None and (differences := now.differences(made)):
            raise MaskFileError(
                f"{self.THIS} made with other preprocessing than {shown(loaded)} is loaded with: "
                f"{differences}. Pass the {self.KIND.noun} to --preprocess to prepare them as then, or make another one"
            )

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Return the file at a path.

        Raises:
            MaskFileError: no such file, not JSON, another format, or wrong values; all mistakes are listed.
        """
        return cls.parsed(read_json(path, cls.KIND.noun, MaskFileError), path)

    @classmethod
    def parsed(cls, content: Any, path: str | os.PathLike[str]) -> Self:
        """Return the content of a file at a path, checked.

        Raises:
            MaskFileError: another format, or wrong values; all mistakes are listed.
        """
        where = f"{cls.KIND.noun} {shown(path)}"
        if not isinstance(content, dict) or content.get("format") != cls.FORMAT:
            got = content.get("format") if isinstance(content, dict) else type(content).__name__
            raise MaskFileError(
                f"{where} must be a JSON object with format {cls.FORMAT!r}; got {shown(repr(got))[:80]}"
            )
        return parse_model(content, cls, where, MaskFileError)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the file, atomically; an existing one of its kind is replaced.

        Raises:
            OutputError: something else exists there, or nothing can be written there.
        """
        write_json(path, self.model_dump(mode="json"), self.KIND)


class MaskFile(HeadFile):
    """A validated mask file; read one with `MaskFile.read`.

    Raises:
        ValidationError: from pydantic, when built from bad values; `read` turns it into a `MaskFileError`.
    """

    KIND, FORMAT, NAME, THIS = MASK_FILE, "headmask/1", MASK, "this mask was"
    DOING, DONE, MADE_BY = "ablating", "ablated", "search"

    format: Literal["headmask/1"] = "headmask/1"
    heads: tuple[str, ...]
    scales: dict[str, Number] | None = None
    """For a search that trained scales: by `L3H7`, the final scale of every ablated head."""

    @model_validator(mode="before")
    @classmethod
    def _without_gates(cls, content: Any) -> Any:
        """Leave out what files of 0.1 say of gates."""
        return (
            {key: value for key, value in content.items() if key != "gates"} if isinstance(content, dict) else content
        )

    @field_validator("heads")
    @classmethod
    def _heads_parse(cls, heads: tuple[str, ...]) -> tuple[str, ...]:
        parsed = [Head.parse(head) for head in heads]
        if len(set(parsed)) != len(parsed):
            raise ValueError("heads are listed twice")
        return tuple(map(str, sorted(parsed)))

    @property
    def mask(self) -> HeadMask:
        """The mask itself."""
        return HeadMask.from_heads(self.head_grid, map(Head.parse, self.heads))

    @property
    def head_scales(self) -> HeadScales:
        """The mask as scales."""
        return HeadScales.of(self.mask)

    @property
    def summary(self) -> str:
        """How many heads are ablated."""
        return f"{counted(len(self.heads), 'head')} ablated"


def write_json(path: str | os.PathLike[str], content: Any, kind: Kind) -> None:
    """Write a value as indented JSON, atomically: readers see the old file or the new one, never a part.

    Raises:
        OutputError: something else exists there, or nothing can be written there.
    """
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n", kind)
