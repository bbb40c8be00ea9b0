"""`explain.json`: what the heads of a mask do, for programs, with a documented schema; also as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from rich.table import Table

from headmask.border.shown import counted
from headmask.maskfile import Grid, ModelReference
from orchestrator.outcome.tables import empty_mask_sentence

FILE = "explain.json"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DescribingText(_Part):
    """A text whose direction explains how the head's direct contribution varies over the images."""

    text: str
    share: float = Field(description="of the contribution's variance, in [0, 1]")
    cumulative: float = Field(description="share of this text and the ones before it")


class Change(_Part):
    """A value with nothing ablated, with this head alone ablated, and with the whole mask."""

    baseline: int | float
    head: int | float
    mask: int | float


class Query(_Part):
    """A right answer of an image, and its rank."""

    kind: str = Field(description="t2i, i2t; class; text, image, group")
    text: str | None = Field(description="caption or class that is looked for or asked with; null for i2t and matching")
    rank: Change = Field(description="1 is first; 256 stands for all that is not among the first 255")
    probability: Change | None = Field(description="of the right answer; null for matching")


class HarmedImage(_Part):
    """An image on which a head hurts."""

    row: int = Field(description="of the data file, from 0")
    texts: list[str] = Field(description="captions, or the name of the class")
    gain: Change = Field(
        description="what the guide gains on this image: 0 at baseline, with the head alone ablated, with the mask"
    )
    queries: list[Query]
    looks_at: str = Field(description="where in the image the patch with most attention lies, such as upper left")
    on_patches: float = Field(description="share of the head's attention on patches; the rest is on other tokens")


class ExplainedHead(_Part):
    """What one head does."""

    head: str
    in_mask: bool
    size: float | None = Field(
        description="standard deviation of the direct contribution as a share of the embedding's; null without texts"
    )
    texts: list[DescribingText] = Field(description="best first; empty without texts")
    guide: Change
    objective: Change
    num_hurt: int = Field(description="images on which the guide gains when this head alone is ablated")
    num_helped: int = Field(description="images on which it loses")
    images: list[HarmedImage] = Field(description="those with the largest gain, largest first")
    picture: str | None = Field(description="PNG beside this file; null where the head hurts on no image")
    alt: str | None = Field(description="the picture in words")


class Explanation(_Part):
    """What heads do, on one split of a data set."""

    format: Literal["headmask-explain/1"] = "headmask-explain/1"
    model: ModelReference
    grid: Grid
    ablation: str
    mask: list[str] = Field(description="heads of the mask")
    mask_file: str | None = Field(description="null where heads were named without a mask")
    data: str
    split: str
    task: str
    num_images: int
    objective: str
    guide: str = Field(description="the metric that images are ordered by, query by query")
    descriptions: str = Field(description="file of the texts, or `bundled`")
    num_descriptions: int
    no_texts: str | None = Field(description="why no head is described by texts; null where they are")
    heads: list[ExplainedHead]
    versions: dict[str, str]


def explanation_table(found: Explanation) -> Table:
    """Return a table with a row per head: its texts, the effect of its ablation, the images that it hurts and helps."""
    table = Table(
        title=f"{found.data}, split {found.split}, {counted(found.num_images, 'image')}", title_justify="left"
    )
    table.add_column("head")
    table.add_column("texts that explain most of its contribution", ratio=1)
    table.add_column(f"{found.guide}\nwithout it", justify="right")
    table.add_column("images it\nhurts", justify="right")
    table.add_column("\nhelps", justify="right")
    for head in found.heads:
        texts = ", ".join(f"{each.text} ({100 * each.share:.0f} %)" for each in head.texts[:3])
        change = 100 * (head.guide.head - head.guide.baseline)
        table.add_row(head.head, texts or "-", f"{change:+.2f}", f"{head.num_hurt:,}", f"{head.num_helped:,}")
    return table


def explanation_sentences(found: Explanation) -> list[str]:
    """Return sentences that complete the table."""
    if not found.heads:
        return [f"There is nothing to explain. {empty_mask_sentence(Path(found.mask_file or ''))}"]
    first = found.heads[0].guide
    lines = [
        f"{found.guide} is {100 * first.baseline:.2f} with nothing ablated and {100 * first.mask:.2f} with the whole "
        "mask. Shares are of the variance of a head's direct contribution over these images."
    ]
    if found.no_texts:
        lines.append(f"No texts: {found.no_texts}.")
    return lines
