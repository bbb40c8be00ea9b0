"""Scoring a mask on any data, paired with the baseline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headmask.mask import HeadMask
from headmask.maskfile import MaskFile
from headmask.models import load_model
from orchestrator.session import make_payload
from orchestrator.verdict import DRAWS, outcomes_of
from strategies.selection import paired_interval, permutation_p_value
from workers.constants import USUAL_CHUNK, Constants
from workers.metrics import Ranks
from workers.preprocess import UInt8Preprocess
from workers.replica import Replica, Stage
from workers.retrieval import ALL, load_retrieval, take_split
from workers.scorer import ScorerSettings, default_device


@dataclass(frozen=True)
class Evaluation:
    """A mask and the baseline on one split."""

    mask: MaskFile
    data: Path
    split: str
    num_images: int
    num_captions: int
    objective: str
    baseline: dict[str, float]
    masked: dict[str, float]
    interval: tuple[float, float]
    p_value: float

    @property
    def title(self) -> str:
        """What was scored on what."""
        size = f"{self.num_images} images, {self.num_captions} captions"
        return f"{len(self.mask.heads)} heads ablated; {self.data.name}, {size}"

    @property
    def sentence(self) -> str:
        """The difference in the objective, in words."""
        low, high = (100 * end for end in self.interval)
        delta = 100 * (self.masked[self.objective] - self.baseline[self.objective])
        sure = f"95 % interval {low:+.2f} to {high:+.2f}, p = {self.p_value:.4f}"
        return f"{self.objective} changes by {delta:+.2f} points, {sure}"

    def as_json(self) -> dict[str, Any]:
        """Return the evaluation as JSON values."""
        return {
            "model": self.mask.model.model_dump(),
            "data": str(self.data),
            "split": self.split,
            "heads": list(self.mask.heads),
            "ablation": self.mask.ablation,
            "num_images": self.num_images,
            "num_captions": self.num_captions,
            "objective": self.objective,
            "baseline": self.baseline,
            "masked": self.masked,
            "delta": {name: self.masked[name] - value for name, value in self.baseline.items()},
            "interval": list(self.interval),
            "p_value": self.p_value,
        }


def evaluate_mask(
    mask: Path,
    data: Path,
    *,
    split: str | None = None,
    model: str | None = None,
    pretrained: str | None = None,
    threads: int = 1,
    image_column: str | None = None,
    caption_column: str | None = None,
    split_column: str | None = None,
) -> Evaluation:
    """Return a mask's metrics on a data set next to the baseline's, float32.

    Args:
        mask: the mask file.
        data: Parquet file.
        split: search, confirm or test; None for the whole file.
        model: where the model lies now, when it is not where the mask file says.
        pretrained: its tag or checkpoint.
        threads: of the CPU.
        image_column: see `workers.dataset.Dataset`.
        caption_column: likewise.
        split_column: likewise.

    Raises:
        HeadmaskError: the mask file, the model or the data is not as it must be.
    """
    content = MaskFile.read(mask)
    loaded = load_model(model or content.model.name, pretrained if model or pretrained else content.model.pretrained)
    content.check_model(str(loaded), loaded.reference.weights_sha256)
    preprocess = UInt8Preprocess(loaded.preprocess)
    name = split or ALL
    splits = load_retrieval(
        data,
        preprocess,
        whole=split is None,
        image_column=image_column,
        caption_column=caption_column,
        split_column=split_column,
    )
    chosen = take_split(splits, name)
    settings = ScorerSettings(content.ablation, threads)
    payload = make_payload(loaded, preprocess, {name: chosen}, settings, content.tower)
    means_LHd = content.means_tensor()
    constants = Constants("float32", USUAL_CHUNK, None if means_LHd is None else means_LHd.numpy())
    replica = Replica(payload, default_device(), constants)
    masks = [HeadMask.empty(content.head_grid), content.mask]
    before, after = replica.score(Stage(name, ranks=True), content.head_grid, [each.words for each in masks])
    objective = content.objective or "mean_recall"
    tables = [
        outcomes_of(chosen.image_of_caption_Q, chosen.clusters_N, _ranks(score.ranks, score.failure), objective)
        for score in (before, after)
    ]
    return Evaluation(
        content,
        data,
        name,
        len(chosen.pixels),
        len(chosen.captions),
        objective,
        before.metrics,
        after.metrics,
        paired_interval(*tables, draws=DRAWS),
        permutation_p_value(*tables, draws=DRAWS),
    )


def _ranks(ranks: Ranks | None, failure: str | None) -> Ranks:
    from headmask.errors import ModelError

    if ranks is None:
        raise ModelError(f"the model cannot be scored on this data: {failure}")
    return ranks
