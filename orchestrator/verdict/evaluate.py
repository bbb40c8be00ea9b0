"""Scoring masks on any data, paired with the baseline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from headmask.apply.masked import load_for
from headmask.border.shown import counted
from headmask.errors import ConfigError, ModelError
from headmask.mask import HeadMask
from headmask.maskfile import HeadFile
from headmask.models.loading import LoadedModel
from headmask.pixels.images import PixelRule
from headmask.scalesfile import ScalesFile, read_head_file
from orchestrator.screen.waiting import said_when_slow
from orchestrator.search.otherside import make_payload
from orchestrator.search.preparing import load_section
from orchestrator.settings.sections import DataSection
from orchestrator.statistics.clusters import Clusters, doubt, in_words, too_few
from orchestrator.statistics.paired import Evidence, evidence
from orchestrator.study.looks import Look, keep_looks, kept_looks, looks_at, most_looks, run_folder_of
from orchestrator.verdict.decide import DRAWS
from orchestrator.verdict.outcomes import outcomes_of
from workers.data.loading import ALL, Split, check_data, take_split
from workers.data.preprocess import UInt8Preprocess
from workers.data.remarks import ImageRemarks
from workers.scoring.constants import USUAL_CHUNK, Constants
from workers.scoring.devices import default_device
from workers.scoring.messages import MaskScore, Stage
from workers.scoring.replica import Replica
from workers.scoring.scorer import ScorerSettings
from workers.tasks.metrics import Mix


@dataclass(frozen=True)
class Evaluation:
    """A mask or scales, and the baseline, on one split of a data set."""

    mask_path: Path
    mask: HeadFile
    data: Path
    split: str
    num_images: int
    num_captions: int
    objective: str
    baseline: dict[str, float]
    masked: dict[str, float]
    evidence: Evidence
    clusters: Clusters
    pixels: PixelRule
    images: ImageRemarks
    test_looks: int | None = None
    """Number of masks with which the test split has been looked at; None for another split."""

    @property
    def remarks(self) -> list[str]:
        """Remarks on the images; none for ordinary ones."""
        return list(self.images.sentences(self.pixels, self.data.name))

    @property
    def title(self) -> str:
        """A title: what was scored on what."""
        captions = [counted(self.num_captions, "caption")] if self.num_captions else []
        size = ", ".join([counted(self.num_images, "image"), *captions])
        return f"{self.mask.summary}; {self.data.name}, {size}"

    @property
    def delta(self) -> float:
        """Change of the objective, in [-1, 1]."""
        return self.masked[self.objective] - self.baseline[self.objective]

    @property
    def sentence(self) -> str:
        """A sentence on the difference in the objective."""
        found = self.evidence
        sure = in_words(found.interval, found.p_value, self.too_few)
        more = doubt(found)
        return f"{self.objective} changes by {100 * self.delta:+.2f} points, {sure}" + (f"; {more}." if more else ".")

    @property
    def too_few(self) -> str | None:
        """A sentence that there are too few clusters for an interval; None if there are enough."""
        return too_few([self.clusters], self.data.name if self.split == ALL else f"{self.split} of {self.data.name}")

    def as_json(self) -> dict[str, Any]:
        """Return the evaluation as JSON values."""
        return {
            "mask": str(self.mask_path),
            "model": self.mask.model.model_dump(),
            "data": str(self.data),
            "split": self.split,
            "heads": list(self.mask.heads),
            **({"scales": self.mask.heads} if isinstance(self.mask, ScalesFile) else {}),
            "ablation": self.mask.ablation,
            "num_images": self.num_images,
            "num_captions": self.num_captions,
            "objective": self.objective,
            "baseline": self.baseline,
            "masked": self.masked,
            "delta": {name: self.masked[name] - value for name, value in self.baseline.items()},
            "pixels": self.pixels,
            "images": self.images.model_dump(),
            "interval": None if self.evidence.interval is None else list(self.evidence.interval),
            "p_value": self.evidence.p_value,
            "num_differing": self.evidence.num_differing,
            "clusters": self.clusters.model_dump(),
            "test_looks": self.test_looks,
        }


def evaluate_masks(
    masks: Sequence[Path],
    data: Sequence[DataSection],
    *,
    split: str | None = None,
    model: str | None = None,
    pretrained: str | None = None,
    pixels: str | None = None,
    preprocess: str | None = None,
    threads: int = 1,
    say: Callable[[str], None] = lambda text: None,
) -> list[list[Evaluation]]:
    """Return metrics next to the baseline's, float32: a row per mask, a column per data set.

    Args:
        masks: the mask files and scales files, all made for one model.
        data: the data sets; the objective of each is its own, or the mask's, or that of its task.
        split: search, confirm or test; None for the whole files.
        model: where the model is now, if it is not where the mask file says.
        pretrained: its tag or checkpoint.
        pixels: the pixel rule, see `headmask.pixels.images`; the masks' own by default.
        preprocess: how images are prepared, as for `headmask.load_model`.
        threads: CPU threads.
        say: called with what is loaded, and with the progress of long work.

    Raises:
        HeadmaskError: a file, the model or the data is not valid.
    """
    contents: list[HeadFile] = [read_head_file(path) for path in masks]
    for section in data:
        check_data(Path(section.path), section.reading())
    loaded = load_for(contents[0], model, pretrained, preprocess)
    for content in contents:
        content.check_model(loaded.reference)
    cropped = UInt8Preprocess(loaded.with_pixels(_rule(masks, contents) if pixels is None else pixels).preprocess)
    name, is_test = split or ALL, split == "test"
    columns = [take_split(load_section(section, cropped, whole=split is None, say=say), name) for section in data]
    looks = [_looked(path, content, columns) for path, content in zip(masks, contents, strict=True)] if is_test else []
    for note in loaded.notes:
        say(note)
    scores = _scores(loaded, cropped, contents, columns, threads, say)
    found = []
    for path, content, (before, after) in zip(masks, contents, scores, strict=True):
        row = []
        for section, each, *sides in zip(data, columns, before, after, strict=True):
            mix = objective_on(section, content.objective, each)
            evaluation = _evaluation(path, content, Path(section.path), each, mix, cropped.rule, *sides)
            count = most_looks(set().union(*looks), [each.digest]) if is_test else None
            row.append(replace(evaluation, test_looks=count))
        found.append(row)
    return found


def _rule(paths: Sequence[Path], contents: Sequence[HeadFile]) -> PixelRule:
    """Return the pixel rule that all masks were searched under."""
    rules = {content.pixels: path for path, content in zip(paths, contents, strict=True)}
    if len(rules) > 1:
        texts = ", ".join(f"{path} {rule}" for rule, path in rules.items())
        raise ConfigError(
            f"masks of one table must be scored on the same pixels ({texts}); name the rule with --pixels"
        )
    return contents[0].pixels


def _looked(path: Path, content: HeadFile, splits: Sequence[Split]) -> set[Look]:
    """Return the known looks at test splits, including the ones recorded now for a mask."""
    folder = run_folder_of(path)
    looks = looks_at(
        [split.digest for split in splits],
        content.head_scales,
        model=content.model.weights_sha256,
        tower=content.tower,
        ablation=content.ablation,
    )
    keep_looks(looks, folder)
    return kept_looks(folder)


def objective_on(section: DataSection, wanted: str | None, split: Split) -> Mix:
    """Return the objective on a data set: its own, or the mask's if the task has its metrics, or the task's."""
    if section.objective is not None:
        mix = Mix.parse(section.objective)
        split.targets.check(mix, section.path)
        return mix
    try:
        mix = Mix.parse(wanted or "")
        split.targets.check(mix, section.path)
    except ConfigError:
        return Mix.parse(split.targets.default_objective)
    return mix


Scores = list[MaskScore]
"""Scores of one mask, data set by data set."""


def _scores(
    loaded: LoadedModel,
    preprocess: UInt8Preprocess,
    contents: Sequence[HeadFile],
    columns: Sequence[Split],
    threads: int,
    say: Callable[[str], None],
) -> list[tuple[Scores, Scores]]:
    """Return the scores of the empty mask and of every file's mask or scales, with ranks.

    Masks that differ in nothing but their heads are scored together, with the empty mask once.
    """
    kinds = [(content.tower, content.ablation, str(content.means)) for content in contents]
    found: dict[int, tuple[Scores, Scores]] = {}
    for kind in dict.fromkeys(kinds):
        numbers = [number for number, each in enumerate(kinds) if each == kind]
        content = contents[numbers[0]]
        settings = ScorerSettings(content.ablation, threads)
        splits = {str(place): {"": split} for place, split in enumerate(columns)}
        means_LHd = content.means_tensor()
        constants = Constants("float32", USUAL_CHUNK, None if means_LHd is None else means_LHd.numpy())
        payload = make_payload(loaded, preprocess, splits, settings, content.tower, say)
        replica = Replica(payload, default_device(), constants)
        changes = {number: contents[number].head_scales for number in numbers}
        masks = {number: change.ablated for number, change in changes.items() if change.is_mask}
        words = [HeadMask.empty(content.head_grid).words, *(mask.words for mask in masks.values())]
        what = f"Scoring {counted(len(words), 'mask')}"
        stages = [Stage(place, ranks=True) for place in splits]
        scored = [replica.score(stage, content.head_grid, words, said_when_slow(say, what)) for stage in stages]
        before, *after = (list(each) for each in zip(*scored, strict=True))
        found |= {number: (before, own) for number, own in zip(masks, after, strict=True)}
        for number in changes.keys() - masks:
            scales_LH = changes[number].to_array()
            found[number] = before, [replica.score_scaled(stage, scales_LH) for stage in stages]
    return [found[number] for number in range(len(contents))]


def _evaluation(
    path: Path,
    content: HeadFile,
    data: Path,
    split: Split,
    mix: Mix,
    rule: PixelRule,
    before: MaskScore,
    after: MaskScore,
) -> Evaluation:
    tables = []
    for score in (before, after):
        if score.ranks is None:
            raise ModelError(f"the model cannot be scored on {data}: {score.failure}")
        tables.append(outcomes_of(split, score.ranks[0], mix))
    before_named, after_named = ({**score.metrics, str(mix): mix.value(score.metrics)} for score in (before, after))
    return Evaluation(
        path,
        content,
        data,
        split.name,
        len(split.pixels),
        len(split.texts),
        str(mix),
        before_named,
        after_named,
        evidence(*tables, draws=DRAWS),
        Clusters.of(data.stem, split.clusters_N),
        rule,
        ImageRemarks.of(len(split.pixels), [split.remarks]),
    )
