"""Full searches, through the product, of the demo's model on scenes drawn for the purpose."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.pools import Shift, shifted
from headmask.mask import HeadMask
from orchestrator.demo import DEMO_CONSTANTS
from orchestrator.demo.scenes import downstream_rows
from orchestrator.run import begin
from orchestrator.run.conclude import Outcome
from orchestrator.run.display import Quiet
from orchestrator.run.pools import make_pool
from orchestrator.search.scoring import score_all
from orchestrator.search.session import Session
from orchestrator.settings.config import read_config
from orchestrator.settings.options import flags_of
from orchestrator.statistics.paired import Outcomes
from orchestrator.verdict.decide import TEST, improved_outcomes
from workers.data.dataset import Row, write_dataset
from workers.scoring.messages import MaskScore

SceneRow = tuple[bytes, tuple[str, str], str]


@dataclass(frozen=True)
class Workload:
    """What is searched, and how long."""

    model: Path
    """Folder of the demo's model."""
    masks: int
    """Budget of every search."""
    sizes: Mapping[str, int]
    """Scenes of each split."""
    shift: Shift = "none"
    """What happens to every image of the data."""


def write_scenes(
    path: Path,
    seed: int,
    sizes: Mapping[str, int],
    *,
    cue: float = 0.0,
    shift: Shift = "none",
    shuffled: bool = False,
) -> Path:
    """Return the path, where a data set of scenes has been written.

    Args:
        path: of the Parquet file.
        seed: of the draw.
        sizes: scenes of each split.
        cue: how often the background gives the first shape away, as it does in the model's training domain.
        shift: what happens to every image.
        shuffled: deal all captions of a split to its images at random, each alone: nothing can be learnt from them.
    """
    rows: Iterable[SceneRow] = downstream_rows(seed, cue=cue, sizes=sizes)
    if shift != "none":
        rows = _shifted(rows, shift, np.random.default_rng((seed, 7)))
    if shuffled:
        rows = _dealt(list(rows), np.random.default_rng(seed))
    write_dataset(
        path, (Row(f"{i:05d}.webp", image, captions, split) for i, (image, captions, split) in enumerate(rows))
    )
    return path


def _shifted(rows: Iterable[SceneRow], shift: Shift, rng: np.random.Generator) -> Iterator[SceneRow]:
    for image, captions, name in rows:
        encoded = io.BytesIO()
        shifted(Image.open(io.BytesIO(image)), shift, rng).save(encoded, "WEBP", lossless=True)
        yield encoded.getvalue(), captions, name


def _dealt(rows: list[SceneRow], rng: np.random.Generator) -> Iterator[SceneRow]:
    for name in dict.fromkeys(split for _, _, split in rows):
        own = [(image, captions) for image, captions, split in rows if split == name]
        dealt = rng.permutation([caption for _, captions in own for caption in captions]).reshape(-1, 2).tolist()
        for (image, _), (first, second) in zip(own, dealt, strict=True):
            yield image, (first, second), name


def searched(workload: Workload, data: Path, out: Path, *, precheck: bool = True) -> Outcome:
    """Return a finished search with default settings, in this process.

    Random masks for context are left out: no verdict depends on them.
    """
    flags = flags_of(
        {
            "model": f"local-dir:{workload.model}",
            "data": data,
            "out": out,
            "masks": workload.masks,
            "pool": "inline",
            **DEMO_CONSTANTS,
            "precheck": precheck,
        }
    )
    return begin.start(read_config(None, {**flags, "search.random_masks": 0}), Quiet())


def outcomes_on_test(session: Session, masks: Sequence[HeadMask]) -> list[Outcomes]:
    """Return what masks score on the test split of a settled session, per cluster, in the order given."""
    return [outcomes(session, score) for score in scores_on_test(session, masks)]


def scores_on_test(session: Session, masks: Sequence[HeadMask]) -> list[MaskScore]:
    """Return the scores of masks on the test split of a settled session, in the order given."""
    with closing(make_pool(session, Quiet())) as pool:
        pool.settle(session.wanted)
        found = score_all(pool, TEST, list(masks))
    return [found[mask].score for mask in masks]


def outcomes(session: Session, score: MaskScore) -> Outcomes:
    """Return a mask's scores on the test split per cluster."""
    (only,) = improved_outcomes(session, TEST.split, score, session.objective)
    return only
