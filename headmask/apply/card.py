"""The model card of an exported folder: the ablated heads, the gain and its uncertainty, how to load the model.

Names of models, data sets and studies come from users, so each is escaped: none can break the front matter or become
Markdown or HTML.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from huggingface_hub import ModelCardData

from headmask.border.shown import counted
from headmask.maskfile import HeadFile, SplitScores
from headmask.pixels.images import STOCK
from headmask.scalesfile import ScalesFile

if TYPE_CHECKING:
    from headmask.apply.footprint import Footprint
    from headmask.apply.proof import ExportProof

_SPECIAL = re.compile(r"([\\`*_\[\]|~$@]|:(?=//))")
_ORDER = ("search", "confirm", "test")

_LOAD_FOLDED = """\
This is an ordinary open_clip model: the mask is in its weights.

```python
import open_clip
from PIL import Image

model, _, preprocess = open_clip.create_model_and_transforms("local-dir:PATH")  # of this folder
tokenizer = open_clip.get_tokenizer("local-dir:PATH")
pixels = preprocess(Image.open("photo.jpg"))  # as it is opened, see below
```

Images were scored as this `preprocess` makes them of what Pillow opens. It resizes before it converts to RGB, so that
another `.convert("RGB")` in front of it gives other pixels where an image has a palette, transparency or CMYK."""
_LOAD_COMPOSITED = """\
This is an ordinary open_clip model: the mask is in its weights. Images were scored *composited*: upright, on white,
scaled to 8 bits. open_clip's own preprocessing gives other pixels of images that are transparent, turned by EXIF, or of
more than 8 bits, and of others that are neither 8-bit RGB nor gray. `headmask` brings the one that was scored:

```python
import headmask
from PIL import Image

model = headmask.load_model("local-dir:PATH")  # of this folder
embeddings = model.clip.encode_image(model.preprocess(Image.open("photo.jpg"))[None])
tokens = model.tokenizer(["a photo of a dog"])
```"""
_LOAD_TRANSFORMERS = """\
This is an ordinary model of Hugging Face's transformers: the mask is in its weights, and the processor is beside them.

```python
import transformers

{load}  # of this folder
processor = transformers.{processor}.from_pretrained("PATH")
```"""
_TRANSFORMERS_COMPOSITED = """
Images were scored *composited*: upright, on white, scaled to 8 bits. The processor gives other pixels of images that
are transparent, turned by EXIF, or of more than 8 bits; `headmask.load_model("hf-dir:PATH").preprocess` brings the one
that was scored."""
_LOAD_PRUNED = """\
Some layers have fewer attention heads than others, which open_clip cannot build: `open_clip.create_model` fails on this
folder. Load it with `headmask`:

```python
import headmask
from PIL import Image

model = headmask.load_pruned("PATH")  # of this folder
embeddings = model.clip.encode_image(model.preprocess(Image.open("photo.jpg"))[None])
tokens = model.tokenizer(["a photo of a dog"])
```"""
_LIMITS = (
    "The test split's figures hold for its kind of images and texts. On others it may do nothing, or harm: "
    "`headmask eval` measures it on yours.",
    "Search-split figures are optimistic, because {compared} there; {chosen} chosen on confirm.",
    "{trained} What the original model gets wrong for other reasons, its biases included, is still there.",
    "License and terms of use are those of the original model.",
)
_LIMIT_PRUNED = "The heads are removed permanently: another mask needs the original model."
_OF_MASKS = {
    "compared": "masks were compared",
    "chosen": "the mask was",
    "trained": "No weight was trained.",
}
_OF_SCALES = {
    "compared": "scales were trained",
    "chosen": "these were",
    "trained": "One factor per head was trained, and no other weight.",
}


def model_card(mask: HeadFile, proof: ExportProof, *, prune: bool, loading: str | None = None) -> str:
    """Return the card as Markdown with a YAML front matter.

    Args:
        mask: the mask file or scales file that was exported.
        proof: the proof that the export made.
        prune: whether the heads are pruned instead of folded.
        loading: how the export is loaded, where that depends on the model.
    """
    done = "pruned" if prune else "folded into the weights"
    scaled = "scaled and " if isinstance(mask, ScalesFile) else ""
    parts = [
        f"---\n{_front_matter(mask, 'headmask' if prune and proof.format != 'onnx' else proof.format)}\n---",
        f"# {_text(mask.model.short)} with {counted(len(mask.heads), 'attention head')} {scaled}{done}",
        _verdict(mask),
        f"## What was {mask.DONE}",
        _table(("", ""), _what(mask)),
        *_scores(mask),
        *_data(mask),
        "## Loading",
        loading or _loading(mask, proof, prune=prune),
        "## What was checked",
        f"Written, loaded again and compared with the masked model on {proof.num_probes} images and as many texts: "
        f"normalised embeddings differ by at most {proof.max_difference:.1e} (allowed {proof.tolerance:.0e}).",
        _table(("", "before", "after"), footprint_rows(proof)),
        "## Limits",
        "\n".join(f"- {limit}" for limit in _limits(mask, prune=prune)),
    ]
    return "\n\n".join(parts) + "\n"


def _loading(mask: HeadFile, proof: ExportProof, *, prune: bool) -> str:
    if prune:
        return _LOAD_PRUNED
    if proof.format == "transformers":
        name = proof.how_to_load.split(".")[1]
        load = f'model = transformers.{name}.from_pretrained("PATH")'
        processor = "AutoImageProcessor" if "Vision" in name else "AutoProcessor"
        text = _LOAD_TRANSFORMERS.format(load=load, processor=processor)
        return text if mask.pixels == STOCK else f"{text}\n{_TRANSFORMERS_COMPOSITED}"
    return _LOAD_FOLDED if mask.pixels == STOCK else _LOAD_COMPOSITED


def _limits(mask: HeadFile, *, prune: bool) -> list[str]:
    limits = [limit.format(**(_OF_SCALES if isinstance(mask, ScalesFile) else _OF_MASKS)) for limit in _LIMITS]
    return [*limits, _LIMIT_PRUNED] if prune else limits


def footprint_rows(proof: ExportProof) -> list[tuple[str, str, str]]:
    """Return the tower's footprint before and after, as rows of a table."""
    found = proof.footprints
    before, after = found.before, found.after
    one = "image" if found.tower == "image" else "text"
    rows = [
        (f"parameters of the {found.tower} tower", f"{before.parameters:,}", f"{after.parameters:,}"),
        (f"GFLOPs per {one}", f"{before.flops / 1e9:.4g}", f"{after.flops / 1e9:.4g}"),
    ]
    if found.timing is not None:
        timing = found.timing
        what = f"{one}s" if timing.batch > 1 else one
        how = f"median and quartiles of {timing.rounds} alternating rounds"
        where = f"{timing.device}, by torch" if proof.format == "onnx" else timing.device
        rows.append((f"ms for {timing.batch} {what} on {where}, {how}", _spread(before), _spread(after)))
    return rows


def _spread(found: Footprint) -> str:
    median_ms, quartiles_ms = found.latency_ms or 0.0, found.quartiles_ms or (0.0, 0.0)
    return f"{median_ms:.4g} ({quartiles_ms[0]:.4g} to {quartiles_ms[1]:.4g})"


def _front_matter(mask: HeadFile, library: str) -> str:
    hub = mask.model.name.removeprefix("hf-hub:")
    card = ModelCardData(
        base_model=hub if hub != mask.model.name else None,
        library_name=library,
        pipeline_tag="zero-shot-image-classification",
        tags=["clip", "transformers" if library == "transformers" else "open_clip", "headmask"],
    )
    return str(card.to_yaml()).strip()


def _verdict(mask: HeadFile) -> str:
    test = mask.scores.get("test")
    if test is None or mask.objective is None:
        return f"The {mask.KIND.noun} holds no scores: whether it helps is not known."
    if not mask.heads:
        return (
            f"The {mask.MADE_BY} found no reliable improvement, so nothing is {mask.DONE}: this is the original model."
        )
    figures = f"{_text(mask.objective)} by {_points(test, mask.objective)} points on the test split"
    if test.interval is not None:
        figures += ", 95 % interval {:+.2f} to {:+.2f}".format(*(100 * end for end in test.interval))
    elif mask.verdict is not None:
        figures += ", without a 95 % interval: too few independent groups of images"
    if test.p_value is not None:
        figures += f", p = {test.p_value:.4f}"
    verdict = f"**{mask.verdict.capitalize()}**: {mask.DOING}" if mask.verdict else mask.DOING.capitalize()
    return f"{verdict} these heads changes {figures}."


def _what(mask: HeadFile) -> list[tuple[str, str]]:
    rows = [
        ("model", _text(mask.model.short)),
        ("weights", f"SHA-256 {mask.model.weights_sha256}"),
        ("tower", f"{mask.tower}, {mask.grid.layers} layers of {mask.grid.heads} heads"),
        ("images", str(mask.model.preprocess or "")),
        ("ablation", mask.ablation),
        ("pixels", mask.pixels),
        (
            "heads",
            str(mask.head_scales).replace(",", ", ")
            if isinstance(mask, ScalesFile)
            else ", ".join(mask.heads) or "none",
        ),
        ("study", _text(mask.study) if mask.study else ""),
        ("versions", ", ".join(f"{_text(name)} {_text(version)}" for name, version in sorted(mask.versions.items()))),
    ]
    return [row for row in rows if row[1]]


def _scores(mask: HeadFile) -> Iterable[str]:
    """Yield the objective on the three splits, then all metrics on test."""
    objective = mask.objective
    shown = [name for name in _ORDER if name in mask.scores and objective in mask.scores[name].baseline]
    if objective is None or not shown:
        return
    yield "## Scores"
    roles = {"search": "optimistic: masks were compared here", "confirm": "chosen here", "test": "never chosen on"}
    yield f"{_text(objective)}, in points:"
    yield _table(
        ("split", "baseline", "masked", "change", ""),
        [(name, *_cells(mask.scores[name], objective), roles[name]) for name in shown],
    )
    if (test := mask.scores.get("test")) is not None:
        yield "All metrics on the test split, in points:"
        names = [name for name in test.baseline if name in test.selected]
        yield _table(("metric", "baseline", "masked", "change"), [(_text(name), *_cells(test, name)) for name in names])


def _data(mask: HeadFile) -> Iterable[str]:
    """Yield a description of each data set that the mask was searched on."""
    if not mask.data:
        return
    yield "## Data"
    rows = [
        (_text(data.name), name, f"{split.num_images:,}", f"{split.num_captions:,}", _text(split.digest[:16]))
        for data in mask.data
        for name, split in data.splits.items()
    ]
    yield _table(("data set", "split", "images", "captions or prompts", "digest"), rows)


def _cells(scores: SplitScores, metric: str) -> tuple[str, str, str]:
    before, after = scores.baseline[metric], scores.selected[metric]
    return f"{100 * before:.2f}", f"{100 * after:.2f}", _points(scores, metric)


def _points(scores: SplitScores, metric: str) -> str:
    return f"{100 * (scores.selected[metric] - scores.baseline[metric]):+.2f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(value: object) -> str:
    """Return a name as one line of Markdown that displays it literally."""
    printable = "".join(letter if letter.isprintable() else " " for letter in str(value))
    escaped = html.escape(_SPECIAL.sub(r"\\\1", " ".join(printable.split())), quote=False)
    # What would become a link without any brackets.
    return escaped.replace("www.", "www\\.")
