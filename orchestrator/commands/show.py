"""`headmask data show`: the contents of a data set, what is wrong with it, and a few samples as a picture."""

from __future__ import annotations

import textwrap
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageOps
from rich.table import Table

from headmask.border.shown import counted, shown
from headmask.errors import DataError
from headmask.pixels.images import STOCK, by_rule, quiet_pillow
from orchestrator.pages.drawing import save_picture, text_font
from orchestrator.statistics.clusters import LARGE_SHARE, Clusters
from orchestrator.statistics.paired import MIN_CLUSTERS
from workers.data.ahead import ahead
from workers.data.dataset import Dataset
from workers.data.loading import Reading, linked, taken
from workers.data.preprocess import UInt8Preprocess, look
from workers.data.splits import FRACTIONS, SPLITS
from workers.tasks.registry import TASKS

NUM_SAMPLES = 12
THUMBNAIL, TEXT_LINES, COLUMNS = 224, 4, 4
FLICKR30K = 31_783
DRAWN = "(drawn by a search)"
"""Shown in place of the splits of a file without any."""
_MAX_LISTED = 5
_MAX_CLASSES = 30


@dataclass
class Findings:
    """Contents of a data set."""

    path: Path
    task: str
    num_images: int
    splits: dict[str, int]
    """Number of images by split; one entry without a name if the file has no splits."""
    captions_per_image: list[int] = field(default_factory=list)
    classes: list[tuple[str, str, int]] = field(default_factory=list)
    """Each class's label in the source, its name in prompts, and its number of images."""
    ignored: dict[str, int] = field(default_factory=dict)
    """Number of the source's files that are not images, by ending."""
    group_counts: dict[str, int] = field(default_factory=dict)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    clusters: dict[str, Clusters] = field(default_factory=dict)
    """Units of resampling, by split."""
    warnings: list[str] = field(default_factory=list)
    samples: list[tuple[Image.Image, str]] = field(default_factory=list)
    num_remarked: dict[str, int] = field(default_factory=dict)
    """Number of images whose pixels depend on the rule, are cut off, or have almost one colour."""

    def as_json(self) -> dict[str, Any]:
        """Return the findings as JSON values."""
        per_image = self.captions_per_image
        return {
            "path": str(self.path),
            "task": self.task,
            "num_images": self.num_images,
            "splits": self.splits,
            "num_captions": sum(per_image),
            "captions_per_image": {"min": min(per_image), "mean": mean(per_image), "max": max(per_image)}
            if per_image
            else None,
            "num_classes": len(self.classes),
            "classes": [{"label": label, "name": name, "num_images": count} for label, name, count in self.classes],
            "ignored": self.ignored,
            "groups": self.group_counts,
            "num_differing": self.num_remarked.get("differing", 0),
            "num_clipped": self.num_remarked.get("clipped", 0),
            "num_constant": self.num_remarked.get("constant", 0),
            "clusters": {split: each.model_dump(exclude={"data"}) for split, each in self.clusters.items()},
            "warnings": self.warnings,
        }

    def table(self) -> Table:
        """Return a table of the images by split."""
        table = Table(title=f"{self.path.name}, for {self.task}", title_justify="left")
        table.add_column("split")
        for column in ("images", "independent groups", "largest"):
            table.add_column(column, justify="right")
        for split, count in self.splits.items():
            clusters = self.clusters[split]
            table.add_row(split, f"{count:,}", f"{clusters.number:,}", f"{clusters.largest:,}")
        return table

    def sentences(self) -> list[str]:
        """Return the other findings as sentences."""
        widths, heights = zip(*self.sizes, strict=True)
        lines = [
            f"Images are {min(widths)} to {max(widths)} pixels wide and {min(heights)} to {max(heights)} high, "
            f"{np.median(widths):g} x {np.median(heights):g} in the median."
            if len(set(self.sizes)) > 1
            else f"Images are {widths[0]} x {heights[0]} pixels."
        ]
        if per_image := self.captions_per_image:
            spread = f"{min(per_image)} to {max(per_image)}" if len(set(per_image)) > 1 else str(per_image[0])
            lines.append(f"{counted(sum(per_image), 'caption')}, {spread} per image.")
        if self.classes:
            counts = [count for _, _, count in self.classes]
            spread = f"{min(counts)} to {max(counts)}" if len(set(counts)) > 1 else str(counts[0])
            images = "image" if spread == "1" else "images"
            lines.append(f"{counted(len(counts), 'class', 'classes')} with {spread} {images} each.")
            lines.append("Classes: " + _some([_called(label, name) for label, name, _ in self.classes]) + ".")
        if self.group_counts:
            groups = [f"{shown(name)} ({count})" for name, count in self.group_counts.items()]
            lines.append("Groups: " + ", ".join(groups) + ".")
        if self.ignored:
            listed = ", ".join(f"{count} {ending}" for ending, count in sorted(self.ignored.items()))
            lines.append(f"Ignored when it was built: {listed}.")
        return lines


def _called(label: str, name: str) -> str:
    return shown(name) if label == name else f"{shown(label)} is '{shown(name)}'"


def _some(texts: Sequence[str]) -> str:
    rest = f" and {len(texts) - _MAX_CLASSES} more; --json lists them all" if len(texts) > _MAX_CLASSES else ""
    return ", ".join(texts[:_MAX_CLASSES]) + rest


def look_at(
    path: Path,
    reading: Reading,
    *,
    model: str | None = None,
    pixels: str = STOCK,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Findings:
    """Return the contents of a data set.

    Args:
        path: Parquet file.
        reading: how it is read.
        model: open_clip name whose tokenizer is used; `ViT-B-32` by default.
        pixels: the pixel rule, see `headmask.pixels.images`.
        on_progress: called with images looked at and in all.

    Raises:
        DataError: the file cannot be read.
    """
    dataset = Dataset(path, reading.columns, task=reading.task)
    splits = dataset.splits() or [DRAWN] * len(dataset)
    order = {name: number for number, name in enumerate(SPLITS)}
    counts = Counter(map(str, splits))
    names = sorted(counts, key=lambda name: (order.get(name, len(order)), name))
    found = Findings(path, dataset.task, len(dataset), {name: counts[name] for name in names})
    found.ignored = dict(dataset.own.ignored)
    texts = _look_at_texts(dataset, found, reading, model)
    chosen = set(np.linspace(0, len(dataset) - 1, min(NUM_SAMPLES, len(dataset))).astype(int).tolist())
    digests: list[str] = []
    broken: list[str] = []
    remarked: dict[str, list[str]] = {name: [] for name in _REMARKS}
    with quiet_pillow():
        for row, seen in enumerate(_looked_at(dataset, chosen, _preprocess(pixels))):
            digests.append(seen.digest)
            if seen.size is None:
                broken.append(seen.digest)
            else:
                found.sizes.append(seen.size)
            if seen.thumbnail is not None:
                found.samples.append((seen.thumbnail, f"{splits[row]}: {texts[row]}"))
            for name in seen.remarks:
                remarked[name].append(f"row {row}")
            on_progress(row + 1, len(dataset))
    found.num_remarked = {name: len(rows) for name, rows in remarked.items()}
    if not found.sizes:
        raise DataError(f"{path} has no image that can be read: {broken[0]}")
    found.warnings += [
        *(_listed(f"{counted(len(broken), 'image')} cannot be read", broken) if broken else []),
        *_split_warnings(found),
        *_duplicates(digests, splits),
        *(text for name, rows in remarked.items() if rows for text in _listed(_remark(name, len(rows)), rows)),
    ]
    found.clusters = _clusters(dataset, found, digests, list(map(str, splits)))
    found.warnings += [line for split, each in found.clusters.items() for line in _cluster_warnings(split, each)]
    return found


_REMARKS = {
    "differing": "other pixels under stock open_clip than composited (upright, on white, scaled to 8 "
    "bits); --pixels chooses which are scored",
    "clipped": "values of more than 8 bits, which stock open_clip cuts off at 255; save them with 8 "
    "bits, or score with --pixels composited",
    "constant": "almost one colour",
}
"""Descriptions of image remarks."""


def _remark(name: str, count: int) -> str:
    return f"{_have(count)} {_REMARKS[name]}"


def _have(count: int) -> str:
    return f"{counted(count, 'image')} {'has' if count == 1 else 'have'}"


def _clusters(dataset: Dataset, found: Findings, digests: Sequence[str], splits: Sequence[str]) -> dict[str, Clusters]:
    """Return the clusters that a search would resample, by split."""
    needs = TASKS[dataset.task].needs
    captions = [tuple(map(str, each)) for each in dataset.raw_captions()] if "caption" in needs else []
    pairs = dataset.pairs() if "pair" in needs else []
    clusters = {}
    for name in found.splits:
        rows = [row for row, split in enumerate(splits) if split == name]
        clusters_N = linked(taken(digests, rows), taken(captions, rows), taken(pairs, rows))
        clusters[name] = Clusters.of(found.path.stem, clusters_N)
    return clusters


def _cluster_warnings(split: str, found: Clusters) -> list[str]:
    """Warn of too few clusters for an interval, or of one that holds a large part of a split."""
    needs = f"fewer than {MIN_CLUSTERS}, below which no interval is given and no improvement claimed"
    if split == DRAWN:
        share = min(FRACTIONS)
        if share * found.effective < MIN_CLUSTERS:
            return [f"the smallest of the drawn splits has {share:g} of the {found.said_plainly()}: {needs}"]
    elif found.is_few:
        return [f"{split} has {found.said_plainly()}: {needs}"]
    if found.largest > LARGE_SHARE * found.num_images:
        return [
            f"one independent group holds {found.largest:,} of the {found.num_images:,} images of {split}: they have "
            "identical pixels or the same captions, and count as one"
        ]
    return []


@dataclass(frozen=True)
class _Seen:
    """What is kept of an image."""

    digest: str
    """Digest of its pixels, or why it cannot be read."""
    size: tuple[int, int] | None = None
    thumbnail: Image.Image | None = None
    remarks: tuple[str, ...] = ()


def _preprocess(pixels: str) -> UInt8Preprocess:
    """Return open_clip's usual preprocessing at 224 pixels, under a pixel rule."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    return UInt8Preprocess(by_rule(image_transform_v2(PreprocessCfg(), is_train=False), pixels))


def _looked_at(dataset: Dataset, chosen: set[int], preprocess: UInt8Preprocess) -> Iterator[_Seen]:
    """Yield what is kept of every image."""

    def seen(pair: tuple[int, bytes]) -> _Seen:
        row, content = pair
        try:
            found = look(content, f"row {row}", preprocess)
        except DataError as error:
            return _Seen(str(error))
        flags = {"differing": found.differs, "clipped": found.clipped, "constant": found.constant}
        thumbnail = ImageOps.contain(found.image, (THUMBNAIL, THUMBNAIL)) if row in chosen else None
        return _Seen(found.digest, found.image.size, thumbnail, tuple(name for name, flag in flags.items() if flag))

    return ahead(seen, enumerate(dataset.images()))


def _look_at_texts(dataset: Dataset, found: Findings, reading: Reading, model: str | None) -> list[str]:
    """Return the text below every image, having recorded captions or classes."""
    if "label" in TASKS[dataset.task].needs:
        labels, classes = dataset.classes(reading.names_file)
        counts, names = Counter(labels), classes.names
        found.classes = [(*both, counts[number]) for number, both in enumerate(zip(classes.labels, names, strict=True))]
        empty = [_called(label, name) for label, name, count in found.classes if not count]
        if empty:
            have = "class has" if len(empty) == 1 else "classes have"
            found.warnings += _listed(f"{len(empty)} {have} no image", empty)
        groups = dataset.groups()
        found.group_counts = dict(sorted(Counter(groups or ()).items()))
        return [names[label] + (f" ({groups[row]})" if groups else "") for row, label in enumerate(labels)]
    raw = dataset.raw_captions()
    found.captions_per_image = [len(captions) for captions in raw]
    empty_rows = [
        f"row {row}" for row, captions in enumerate(raw) if not captions or not all(map(str.strip, map(str, captions)))
    ]
    if empty_rows:
        found.warnings += _listed(f"{_have(len(empty_rows))} no caption or an empty one", empty_rows)
    found.warnings += _cut(raw, model)
    return [str(captions[0]) if captions else "" for captions in raw]


def _cut(raw: Sequence[Sequence[Any]], model: str | None) -> list[str]:
    """Warn of captions that the tokenizer cuts off: more tokens would be read if there were room."""
    import open_clip

    from headmask.models.loading import tokenizer_of

    tokenizer = tokenizer_of("ViT-B-32" if model is None else model)
    length = int(getattr(tokenizer, "context_length", None) or open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH)
    padding = tokenizer([""], context_length=length + 1)[0, -1]
    cut = []
    for row, captions in enumerate(raw):
        for caption in captions:
            # A token is at least one byte, so short captions need no look.
            text = str(caption or "")
            may_be_cut = len(text.encode()) > length - 2
            if may_be_cut and tokenizer([text], context_length=length + 1)[0, -1] != padding:
                cut.append(f"row {row}")
    if not cut:
        return []
    are = "is longer than the {} tokens of the tokenizer and is cut"
    if len(cut) > 1:
        are = "are longer than the {} tokens of the tokenizer and are cut"
    return _listed(f"{counted(len(cut), 'caption')} {are.format(length)}", cut)


def _are(count: int) -> str:
    return f"{counted(count, 'image')} {'is' if count == 1 else 'are'}"


def _split_warnings(found: Findings) -> list[str]:
    if found.splits.get("test") == FLICKR30K or (len(found.splits) == 1 and found.num_images == FLICKR30K):
        return [
            f"these are all {FLICKR30K:,} images of Flickr30k, which some mirrors call its test split; results are "
            "reported on 1,000 of them with 5,000 captions: take Karpathy's splits (--from karpathy)"
        ]
    present = [name for name in SPLITS if name in found.splits]
    missing = [name for name in SPLITS if name not in found.splits]
    if present and missing:
        return [f"there is no {' and no '.join(missing)} split: a search needs --draw-splits"]
    return []


def _duplicates(digests: Sequence[str], splits: Sequence[str | None]) -> list[str]:
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, digest in enumerate(digests):
        rows_of[digest].append(row)
    twice = [rows for rows in rows_of.values() if len(rows) > 1]
    across = [rows for rows in twice if len({splits[row] for row in rows}) > 1]
    warnings = []
    if across:
        rows_text = [" and ".join(f"row {row} ({splits[row]})" for row in rows[:3]) for rows in across]
        warnings += _listed(f"{_are(len(across))} in several splits, which a search refuses", rows_text)
    if len(twice) > len(across):
        same = [rows for rows in twice if rows not in across]
        rows_text = [" and ".join(f"row {row}" for row in rows[:3]) for rows in same]
        warnings += _listed(f"{_are(len(same))} there more than once", rows_text)
    return warnings


def _listed(text: str, rows: Sequence[str]) -> list[str]:
    rest = f" and {len(rows) - _MAX_LISTED} more" if len(rows) > _MAX_LISTED else ""
    return [f"{text}: {', '.join(rows[:_MAX_LISTED])}{rest}"]


def draw_sheet(found: Findings, out: Path) -> Path:
    """Draw a few samples with their texts as a PNG, and return its path."""
    font = text_font("".join(text for _, text in found.samples), 13)
    line = 17
    rows = -(-len(found.samples) // COLUMNS)
    cell, gap = THUMBNAIL + TEXT_LINES * line, 12
    size = (COLUMNS * (THUMBNAIL + gap) + gap, rows * (cell + gap) + gap)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for number, (thumbnail, text) in enumerate(found.samples):
        x = gap + number % COLUMNS * (THUMBNAIL + gap)
        y = gap + number // COLUMNS * (cell + gap)
        sheet.paste(thumbnail, (x + (THUMBNAIL - thumbnail.width) // 2, y + (THUMBNAIL - thumbnail.height) // 2))
        lines = textwrap.wrap(" ".join(text[:300].split()), 32)[:TEXT_LINES]
        for place, words in enumerate(lines):
            draw.text((x, y + THUMBNAIL + 2 + place * line), words, fill="black", font=font)
    save_picture(sheet, out, inputs=[found.path])
    return out
