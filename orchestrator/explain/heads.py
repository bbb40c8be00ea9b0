"""What the heads of a mask do: texts that describe them, images they hurt most, and where they look in these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from headmask.border.kinds import EXPLANATION, EXPLANATION_FOLDER
from headmask.border.libraries import versions
from headmask.border.schemes import folder_of
from headmask.border.shown import counted
from headmask.border.writing import check_output, written_folder
from headmask.errors import ModelError
from headmask.mask import Head, HeadMask
from headmask.maskfile import Grid, write_json
from headmask.tower.attribution import attention_maps, prove_contributions
from orchestrator.explain.explanation import FILE, DescribingText, ExplainedHead, Explanation
from orchestrator.explain.harm import Case, explained_head, measure_harm
from orchestrator.explain.subject import Subject, find_subject, read_descriptions
from orchestrator.search.otherside import embedded_texts, make_payload
from orchestrator.search.preparing import load_section
from orchestrator.settings.sections import DataSection
from orchestrator.study.looks import keep_looks, looks_at, run_folder_of
from orchestrator.verdict.evaluate import objective_on
from workers.data.loading import ALL, check_data, take_split
from workers.data.preprocess import UInt8Preprocess
from workers.scoring.constants import USUAL_CHUNK, Constants
from workers.scoring.devices import default_device
from workers.scoring.engine import Engine
from workers.scoring.messages import MaskScore, Stage
from workers.scoring.replica import Replica
from workers.scoring.scorer import PROOF_TOLERANCE, ScorerSettings
from workers.scoring.textspan import contribution_spread, text_span

# N images, h heads, E embedding, Q texts, Y by X patches

BUNDLED = "bundled"
NUM_TEXTS = 10
"""Maximum number of texts that describe a head."""
_MASKS_AT_ONCE = 32
"""Masks whose embeddings of all images are in memory at the same time."""
_CHUNK = 16
"""Images whose contributions are computed together: if pooling reads all tokens, each has them for every head."""

Say = Callable[[str], None]


def explain_heads(
    data: DataSection,
    out: Path,
    *,
    mask: Path | None = None,
    heads: str | None = None,
    model: str | None = None,
    pretrained: str | None = None,
    pixels: str | None = None,
    preprocess: str | None = None,
    split: str | None = None,
    descriptions: Path | None = None,
    num_images: int = 8,
    threads: int = 1,
    overwrite: bool = False,
    say: Say = lambda text: None,
) -> Explanation:
    """Return what heads do, and write it into a folder: `explain.json` and a picture per head.

    Args:
        data: the data set; the objective is its own, or the mask's, or that of its task.
        out: the folder.
        mask: the mask file; without one, the heads alone are the mask, ablated by zero.
        heads: the heads to explain, such as `L3H7,L5H0`; those of the mask by default.
        model: where the model is, if it is not where the mask file says or there is no mask file.
        pretrained: its tag or checkpoint.
        pixels: the pixel rule, see `headmask.pixels.images`; the mask's own by default, stock without a mask.
        preprocess: how images are prepared, as for `headmask.load_model`.
        split: search, confirm or test; None for the whole file.
        descriptions: file with a text per line; the bundled ones by default.
        num_images: maximum number of images shown for a head.
        threads: CPU threads.
        overwrite: replace an existing explanation.
        say: called with what is being done.

    Raises:
        HeadmaskError: the mask, the model, the heads or the data are not valid.
        OutputError: something at `out` may not be replaced, or nothing can be written there.
    """
    check_output(
        out, EXPLANATION_FOLDER, inputs=_inputs(data, mask, model, pretrained, descriptions), overwrite=overwrite
    )
    texts = read_descriptions(descriptions)
    check_data(Path(data.path), data.reading())
    subject = find_subject(mask, heads, model, pretrained, pixels, preprocess)
    cropped = UInt8Preprocess(subject.model.preprocess)
    chosen = take_split(load_section(data, cropped, whole=split is None, say=say), split or ALL)
    if chosen.name == "test":
        weights = subject.model.reference.weights_sha256
        looks = looks_at([chosen.digest], subject.mask, model=weights, ablation=subject.ablation)
        keep_looks(looks, run_folder_of(mask))
    for note in subject.model.notes:
        say(note)
    objective = objective_on(data, subject.content.objective if subject.content else None, chosen)
    case = Case(subject, chosen, objective, guide=objective.guided(chosen.targets.guides))
    with written_folder(out, EXPLANATION_FOLDER, overwrite=overwrite) as scratch:
        explained, no_texts = (
            _explained(case, texts, scratch, num_images, threads, say) if subject.heads else ([], None)
        )
        found = Explanation(
            model=subject.model.reference,
            grid=Grid(layers=subject.mask.grid.layers, heads=subject.mask.grid.heads),
            ablation=subject.ablation,
            mask=list(map(str, subject.mask.heads)),
            mask_file=None if mask is None else str(mask),
            data=data.path,
            split=chosen.name,
            task=chosen.targets.task,
            num_images=len(chosen.pixels),
            objective=str(objective),
            guide=str(case.guide),
            descriptions=BUNDLED if descriptions is None else str(descriptions),
            num_descriptions=len(texts),
            no_texts=no_texts,
            heads=explained,
            versions=versions(),
        )
        write_json(scratch / FILE, found.model_dump(mode="json"), EXPLANATION)
    return found


def _inputs(data: DataSection, *paths: str | Path | None) -> list[str | Path | None]:
    """Return the files and folders that may be read."""
    return [
        data.path,
        data.class_names,
        data.templates,
        *(each if each is None else folder_of(str(each)) or str(each) for each in paths),
    ]


def _explained(
    case: Case, texts: Sequence[str], out: Path, num_images: int, threads: int, say: Say
) -> tuple[list[ExplainedHead], str | None]:
    """Return the explanations of all heads, with pictures written, and why there are no texts, if there are none."""
    subject, split = case.subject, case.split
    preprocess, settings = UInt8Preprocess(subject.model.preprocess), ScorerSettings(subject.ablation, threads)
    payload = make_payload(subject.model, preprocess, {split.name: {"": split}}, settings, "image", say)
    replica = Replica(payload, default_device(), Constants("float32", USUAL_CHUNK, subject.means_LHd))
    engine = replica.engine(split.name, "float32", _CHUNK)
    count = counted(len(subject.heads), "head")
    say(f"Scoring the mask, and {count} alone, on {counted(len(split.pixels), 'image')}")
    scores = _scores(replica, split.name, subject)
    say(f"Describing the direct contribution of {count} by {counted(len(texts), 'text')}")
    described, no_texts = _described(engine, subject, texts, threads, say)
    explained = []
    for head, (size, of_head) in zip(subject.heads, described, strict=True):
        harm = measure_harm(case, scores, head, num_images)
        maps_NYX = _maps(engine, head, harm.worst)
        explained.append(explained_head(case, harm, maps_NYX, size, of_head, out))
    return explained, no_texts


def _described(
    engine: Engine, subject: Subject, texts: Sequence[str], threads: int, say: Say
) -> tuple[list[tuple[float | None, list[DescribingText]]], str | None]:
    """Return the size and the texts of every head's contribution, or none of them and the reason."""
    try:
        with torch.inference_mode():
            # Two images: where pooling reads all tokens, those of all heads take room.
            probe = engine.inputs.take(slice(0, 2))
            prove_contributions(engine.view, probe, tolerance=PROOF_TOLERANCE["float32"])
        # A model of images alone refuses texts.
        tokens_QT = subject.model.tokenizer(list(texts))
    except ModelError as error:
        return [(None, []) for _ in subject.heads], str(error)
    spread = contribution_spread(engine.view, engine.inputs, subject.heads, chunk=engine.chunk)
    text_QE = embedded_texts(subject.model, tokens_QT, threads, "the descriptions", say)
    found: list[tuple[float | None, list[DescribingText]]] = []
    for place, covariance_EE in enumerate(spread.covariance_hEE):
        spanned = text_span(covariance_EE, text_QE, NUM_TEXTS)
        shares = [each.share for each in spanned]
        found.append(
            (
                spread.size(place),
                [
                    DescribingText(text=texts[each.text], share=each.share, cumulative=sum(shares[: number + 1]))
                    for number, each in enumerate(spanned)
                ],
            )
        )
    return found, None


def _maps(engine: Engine, head: Head, images: Sequence[int]) -> list[NDArray[np.float32]]:
    """Return the attention of a head on the patches of some images, (Y, X) each."""
    maps: list[NDArray[np.float32]] = []
    with torch.inference_mode():
        for start in range(0, len(images), _CHUNK):
            taken = engine.inputs.take(np.array(images[start : start + _CHUNK]))
            maps.extend(attention_maps(engine.view, taken, head).float().cpu().numpy())
    return maps


def _scores(replica: Replica, split: str, subject: Subject) -> dict[HeadMask, MaskScore]:
    """Return the scores of the empty mask, of the whole one, and of every head alone, with ranks."""
    singles = [HeadMask.from_heads(subject.mask.grid, [head]) for head in subject.heads]
    masks = sorted({HeadMask.empty(subject.mask.grid), subject.mask, *singles})
    found: dict[HeadMask, MaskScore] = {}
    for start in range(0, len(masks), _MASKS_AT_ONCE):
        some = masks[start : start + _MASKS_AT_ONCE]
        words = [mask.words for mask in some]
        found |= dict(zip(some, replica.score(Stage(split, ranks=True), some[0].grid, words), strict=True))
    for mask, score in found.items():
        if score.ranks is None:
            raise ModelError(f"the model cannot be scored with {str(mask) or 'nothing'} ablated: {score.failure}")
    return found
