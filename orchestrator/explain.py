"""What the heads of a mask do: the texts that describe them, the images they hurt most, what they look at there."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from headmask.attribution import attention_maps, prove_contributions
from headmask.errors import HeadmaskError, ModelError
from headmask.mask import Head, HeadMask
from headmask.maskfile import Grid, write_json
from orchestrator.evaluate import objective_on
from orchestrator.explanation import FILE, Change, DescribingText, ExplainedHead, Explanation, HarmedImage
from orchestrator.harm import image_credits, queries_of, rank_in_words, texts_of
from orchestrator.sections import DataSection
from orchestrator.session import embedded_texts, load_section, make_payload
from orchestrator.sheets import Cell, draw_attention
from orchestrator.subject import Subject, find_subject, read_descriptions
from orchestrator.versions import versions
from workers.constants import USUAL_CHUNK, Constants
from workers.engine import Engine
from workers.loading import ALL, Split, take_split
from workers.messages import MaskScore, Stage
from workers.preprocess import UInt8Preprocess
from workers.replica import Replica
from workers.scorer import PROOF_TOLERANCE, ScorerSettings, default_device
from workers.tasks import Mix, Ranks
from workers.textspan import contribution_spread, text_span

# N images, h heads, E embedding, Q texts, Y by X patches

BUNDLED = "bundled"
NUM_TEXTS = 10
"""Most texts that describe a head."""
_MASKS_AT_ONCE = 32
"""Masks whose embeddings of all images are in memory together."""
_CHUNK = 16
"""Images whose contributions are computed together: where pooling reads all tokens, every head's are held for each."""
_PICTURE = re.compile(r"L\d+H\d+\.png")

Say = Callable[[str], None]


def explain_heads(
    data: DataSection,
    out: Path,
    *,
    mask: Path | None = None,
    heads: str | None = None,
    model: str | None = None,
    pretrained: str | None = None,
    split: str | None = None,
    descriptions: Path | None = None,
    num_images: int = 8,
    threads: int = 1,
    overwrite: bool = False,
    say: Say = lambda text: None,
) -> Explanation:
    """Write what heads do into a folder, `explain.json` and a picture per head, and return it.

    Args:
        data: the data set; the objective is its own, or the mask's, or that of its task.
        out: the folder.
        mask: the mask file; without one, the heads alone are the mask, ablated by zero.
        heads: those to explain, such as `L3H7,L5H0`; those of the mask by default.
        model: where the model lies, when it is not where the mask file says or there is none.
        pretrained: its tag or checkpoint.
        split: search, confirm or test; None for the whole file.
        descriptions: file with a text per line; the bundled ones by default.
        num_images: most images that are shown for a head.
        threads: of the CPU.
        overwrite: replace an explanation that is there.
        say: told what is being done.

    Raises:
        HeadmaskError: the mask, the model, the heads or the data are not as they must be.
    """
    _check_folder(out, overwrite=overwrite)
    texts = read_descriptions(descriptions)
    subject = find_subject(mask, heads, model, pretrained)
    preprocess = UInt8Preprocess(subject.model.preprocess)
    chosen = take_split(load_section(data, preprocess, whole=split is None, say=say), split or ALL)
    objective = objective_on(data, subject.content.objective if subject.content else None, chosen)
    guide = objective.guided(chosen.targets.guides)
    explained, no_texts = _explained(subject, chosen, objective, guide, texts, out, num_images, threads, say)
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
        guide=str(guide),
        descriptions=BUNDLED if descriptions is None else str(descriptions),
        num_descriptions=len(texts),
        no_texts=no_texts,
        heads=explained,
        versions=versions(),
    )
    # Last, so that a folder with it is whole.
    write_json(out / FILE, found.model_dump(mode="json"))
    return found


def _explained(
    subject: Subject,
    split: Split,
    objective: Mix,
    guide: Mix,
    texts: Sequence[str],
    out: Path,
    num_images: int,
    threads: int,
    say: Say,
) -> tuple[list[ExplainedHead], str | None]:
    """Return all about every head, with pictures written; and why there are no texts, if there are none."""
    if not subject.heads:
        _clear_folder(out)
        return [], None
    preprocess, settings = UInt8Preprocess(subject.model.preprocess), ScorerSettings(subject.ablation, threads)
    payload = make_payload(subject.model, preprocess, {split.name: {"": split}}, settings, "image", say)
    replica = Replica(payload, default_device(), Constants("float32", USUAL_CHUNK, subject.means_LHd))
    engine = replica.engine(split.name, "float32", _CHUNK)
    say(f"Scoring the mask and {len(subject.heads)} heads alone on {len(split.pixels):,} images")
    harm = _Harm(split, objective, guide, _scores(replica, split.name, subject), subject, engine, num_images)
    say(f"Describing what {len(subject.heads)} heads add to the embeddings by {len(texts):,} texts")
    described, no_texts = _described(engine, subject, texts, threads, say)
    _clear_folder(out)
    return [harm.explained(head, *each, out) for head, each in zip(subject.heads, described, strict=True)], no_texts


def _check_folder(out: Path, *, overwrite: bool) -> None:
    """Refuse a folder that holds something else, and to replace an explanation unasked."""
    if out.is_file():
        raise HeadmaskError(f"{out} is a file; --out names a folder")
    if (out / FILE).exists():
        if not overwrite:
            raise HeadmaskError(f"{out} holds an explanation; choose another folder or pass --overwrite")
    elif out.is_dir() and any(not _PICTURE.fullmatch(path.name) for path in out.iterdir()):
        raise HeadmaskError(f"{out} holds other files; choose a folder of its own, such as {out / 'explain'}")


def _clear_folder(out: Path) -> None:
    """Make the folder, and take out what an explanation before has left."""
    out.mkdir(parents=True, exist_ok=True)
    (out / FILE).unlink(missing_ok=True)
    for path in out.iterdir():
        if _PICTURE.fullmatch(path.name):
            path.unlink()


def _described(
    engine: Engine, subject: Subject, texts: Sequence[str], threads: int, say: Say
) -> tuple[list[tuple[float | None, list[DescribingText]]], str | None]:
    """Return the size and the texts of every head's contribution; or none of them, and why not."""
    try:
        with torch.inference_mode():
            # Two images: where pooling reads all tokens, those of all heads take room.
            probe = engine.inputs.take(slice(0, 2))
            prove_contributions(engine.view, probe, tolerance=PROOF_TOLERANCE["float32"])
    except ModelError as error:
        return [(None, []) for _ in subject.heads], str(error)
    spread = contribution_spread(engine.view, engine.inputs, subject.heads, chunk=engine.chunk)
    tokens_QT = subject.model.tokenizer(list(texts))
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


@dataclass(frozen=True)
class _Harm:
    """The images on which heads hurt, and what heads look at there."""

    split: Split
    objective: Mix
    guide: Mix
    scores: Mapping[HeadMask, MaskScore]
    subject: Subject
    engine: Engine
    num_images: int

    def explained(self, head: Head, size: float | None, texts: list[DescribingText], out: Path) -> ExplainedHead:
        """Return all about one head, with its picture written."""
        alone = HeadMask.from_heads(self.subject.mask.grid, [head])
        states = {"baseline": HeadMask.empty(alone.grid), "head": alone, "mask": self.subject.mask}
        ranks = {state: _ranks(self.scores[mask]) for state, mask in states.items()}
        credit_N = {state: self._credits(found) for state, found in ranks.items()}
        gain_N = credit_N["head"] - credit_N["baseline"]
        order_N = np.argsort(-gain_N, kind="stable")
        worst = [int(image) for image in order_N[: self.num_images] if gain_N[image] > 0]
        maps_NYX = self._maps(head, worst)
        images = [
            HarmedImage(
                row=int(self.split.pixels.rows_N[image]),
                texts=texts_of(self.split, image),
                gain=Change(
                    **{state: float(of_N[image] - credit_N["baseline"][image]) for state, of_N in credit_N.items()}
                ),
                queries=queries_of(self.split, image, ranks),
                looks_at=place_in_words(map_YX),
                on_patches=float(map_YX.sum()),
            )
            for image, map_YX in zip(worst, maps_NYX, strict=True)
        ]
        picture = f"{head}.png" if images else None
        if picture:
            cells = [
                Cell(
                    self.split.pixels[np.array([image])][0], map_YX, each.queries[0].text or each.texts[0], _note(each)
                )
                for image, map_YX, each in zip(worst, maps_NYX, images, strict=True)
            ]
            draw_attention(_title(head), cells, out / picture)
        metrics = {state: self.scores[mask].metrics for state, mask in states.items()}
        return ExplainedHead(
            head=str(head),
            in_mask=head in self.subject.mask,
            size=size,
            texts=texts,
            guide=Change(**{state: self.guide.value(each) for state, each in metrics.items()}),
            objective=Change(**{state: self.objective.value(each) for state, each in metrics.items()}),
            num_hurt=int((gain_N > 0).sum()),
            num_helped=int((gain_N < 0).sum()),
            images=images,
            picture=picture,
            alt=_alt(head, images) if picture else None,
        )

    def _credits(self, ranks: Ranks) -> NDArray[np.float64]:
        return image_credits(self.split.targets, ranks, self.guide, len(self.split.pixels))

    def _maps(self, head: Head, images: Sequence[int]) -> NDArray[np.float32]:
        """Return the attention of a head on the patches of images (n, Y, X)."""
        if not images:
            return np.zeros((0, 1, 1), np.float32)
        view = self.engine.view
        parts = [np.array(images[start : start + _CHUNK]) for start in range(0, len(images), _CHUNK)]
        with torch.inference_mode():
            maps = [attention_maps(view, self.engine.inputs.take(part), head) for part in parts]
        maps_NYX: NDArray[np.float32] = torch.cat(maps).float().cpu().numpy()
        return maps_NYX


def place_in_words(map_YX: NDArray[np.float32]) -> str:
    """Return where in an image the patch with most attention lies, in thirds, such as `upper left`."""
    row, column = np.unravel_index(int(map_YX.argmax()), map_YX.shape)
    vertical = ("upper", "middle", "lower")[int(3 * (row + 0.5) / map_YX.shape[0])]
    horizontal = ("left", "middle", "right")[int(3 * (column + 0.5) / map_YX.shape[1])]
    return vertical if vertical == horizontal else f"{vertical} {horizontal}"


def _note(image: HarmedImage) -> str:
    """Return where the right answer of an image stands without the head, in a line."""
    query = image.queries[0]
    before, alone, masked = map(rank_in_words, (query.rank.baseline, query.rank.head, query.rank.mask))
    text = f"{query.kind} rank {before} → {alone}, mask {masked}"
    if query.probability is None:
        return text
    return f"{text}; p {query.probability.baseline:.2f} → {query.probability.head:.2f}"


def _ranks(score: MaskScore) -> Ranks:
    if score.ranks is None:
        raise ValueError("ranks were asked for")
    return score.ranks[0]


def _title(head: Head) -> str:
    return (
        f"{head}, on the images where it hurts most. Beside each, where its attention goes: dark blue none, yellow "
        "most. Rank and probability p of the right answer: as it is → with this head ablated; with the whole mask."
    )


def _alt(head: Head, images: Sequence[HarmedImage]) -> str:
    parts = [
        f"{number}: {each.queries[0].text or each.texts[0]}; most attention {each.looks_at}, "
        f"{100 * each.on_patches:.0f} % on patches"
        for number, each in enumerate(images, 1)
    ]
    return f"Attention of head {head} over the {len(images)} images on which it hurts most. " + ". ".join(parts) + "."
