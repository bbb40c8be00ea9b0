"""What a search works on, prepared once: model, data, the other side's embeddings, the payload, the fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from headmask.ablation.rules import find_ablation
from headmask.apply.pruning import why_not_pruned
from headmask.border.reading import is_file
from headmask.border.shown import counted
from headmask.errors import ConfigError
from headmask.mask import HeadGrid, HeadMask
from headmask.models.loading import OPENAI, LoadedModel, load_model
from headmask.models.origin import is_tag
from headmask.pixels.images import STOCK
from headmask.scales import HeadScales
from headmask.tower.towers import view_of
from headmask.tower.views import TowerView
from orchestrator.screen.waiting import said_when_slow
from orchestrator.search.otherside import OtherSide, bare_payload, with_other_side
from orchestrator.settings.config import SearchConfig
from orchestrator.settings.location import absolute
from orchestrator.settings.objective import Goal, Objective
from orchestrator.settings.sections import OBJECTIVE, DataSection, ModelSection
from orchestrator.study.looks import Look, looks_at
from orchestrator.study.records import TrialRecord
from strategies import MIN_WIDTH, STRATEGIES, Limits, ScanSampler
from workers.data.loading import Split, check_data, load_data
from workers.data.pixels import check_all
from workers.data.preprocess import UInt8Preprocess
from workers.data.remarks import ImageRemarks
from workers.pool.queue import InlinePool, Pool, Steps
from workers.scoring.constants import Constants
from workers.scoring.displacement import MEMORY_SHARE, displacement_bytes
from workers.scoring.engine import REVISION
from workers.scoring.messages import Stage, Survey
from workers.scoring.replica import Payload, Wanted
from workers.scoring.room import free_host_bytes
from workers.scoring.scorer import ScorerSettings
from workers.scoring.trie import TowerCost
from workers.tasks.metrics import Mix

SPLITS = ("search", "confirm", "test")
SPARE = 1.5
"""Masks in flight for each replica: some wait, so that nobody idles while results arrive and a block is planned."""


@dataclass(frozen=True)
class Session:
    """Model and data of a search, ready for a pool."""

    config: SearchConfig
    model: LoadedModel
    view: TowerView
    """View of the searched tower: its structure; a replica proves it."""
    limits: Limits
    splits: Mapping[str, tuple[Split, ...]]
    """Splits by name, each in the order of the data sets."""
    objective: Objective
    guide: Objective
    """The metric that masks are searched by; on confirm and test, the objective decides."""
    payload: Payload
    other: OtherSide
    """The side that no mask changes."""
    preprocessing: str
    survey: Survey | None = None
    """What a replica has found out about the searched tower."""
    shards: int = 1
    """Number of replicas that share the images and score as one."""
    driver_bytes: int = 0
    """Free memory of the driver's machine when the tower was looked at."""
    embedded_splits: frozenset[str] = frozenset()
    """Names of the splits whose other side is embedded."""
    settled_surrogate: bool | None = None
    """Whether the study uses the surrogate, where it says so."""
    constants: Constants | None = None
    """Constants of the study, once a pool has settled them."""

    @property
    def grid(self) -> HeadGrid:
        """Layers and heads of the searched tower."""
        return self.view.grid

    @property
    def cost(self) -> TowerCost:
        """Cost of masks on the searched tower."""
        if self.survey is None:
            raise RuntimeError("a replica counts the cost of masks before it is asked for")
        return self.survey.cost

    @property
    def steps(self) -> Steps | None:
        """What sorted masks cost one after the other, as far as that has been counted."""
        return None if self.survey is None else self.survey.cost.steps

    @property
    def test_digests(self) -> tuple[str, ...]:
        """Digests of the test splits of all data sets."""
        return tuple(split.digest for split in self.splits["test"])

    @property
    def digests(self) -> dict[str, str]:
        """Digests of all splits, by their names with the prefix of the data set's metrics."""
        return {
            f"{goal.prefix}{name}": part.digest
            for name, parts in self.splits.items()
            for goal, part in zip(self.objective.goals, parts, strict=True)
        }

    def looks(self, change: HeadMask | HeadScales) -> list[Look]:
        """Return the looks that a mask or scales take at the test splits."""
        search = self.config.search
        weights = self.model.reference.weights_sha256
        return looks_at(self.test_digests, change, model=weights, tower=search.tower, ablation=search.ablation)

    @property
    def wanted(self) -> Wanted:
        """What the configuration says about the constants of the study."""
        search = self.config.search
        return Wanted(search.precision, search.image_chunk, baseline=bool(self.objective.guarded))

    def gains(self, records: Iterable[TrialRecord]) -> dict[HeadMask, float]:
        """Return the search-split objective of every mask that has one and stays within the limits of loss."""
        baseline = (self.constants.baseline if self.constants else None) or {}
        return {
            record.mask: self.objective.gain(record.metrics)
            for record in records
            if record.value is not None and not self.objective.loss_beyond(record.metrics, baseline)
        }

    def pruned_share(self, mask: HeadMask) -> float | None:
        """Return the share of cost that pruning a mask saves, see `TowerCost.saved`; None if it cannot be pruned."""
        ablation, tower = find_ablation(self.config.search.ablation), self.config.search.tower
        refused = any(why_not_pruned(ablation, attention, tower) for attention in self.view.attentions)
        return None if refused else self.cost.saved(mask)

    def num_inputs(self, split: str) -> int:
        """Return how many images (or texts) of a split the searched tower processes for one mask."""
        is_image = self.config.search.tower == "image"
        return sum(len(part.pixels if is_image else part.texts) for part in self.splits[split])

    def forwards(self, masks: Sequence[HeadMask]) -> float:
        """Return the predicted cost of masks together on the search split, in plain forward passes of one input."""
        return self.cost(masks) * self.num_inputs("search")

    def settled(self, constants: Constants) -> Session:
        """Return the session with the constants of the study, which its configuration then names."""
        search = self.config.search.model_copy(
            update={"precision": constants.precision, "image_chunk": constants.chunk}
        )
        return replace(self, config=self.config.model_copy(update={"search": search}), constants=constants)

    def widened(self, num_replicas: int) -> Session:
        """Return the session with the width of the study, which its configuration then names.

        Args:
            num_replicas: number of replicas that there are or were asked for; groups of shards count as one.
        """
        if isinstance(self.config.search.width, int):
            return self
        search = self.config.search.model_copy(update={"width": width_for(num_replicas)})
        return replace(self, config=self.config.model_copy(update={"search": search}))

    @property
    def width(self) -> int:
        """Number of masks in flight; the smallest until it is settled."""
        width = self.config.search.width
        return width if isinstance(width, int) else MIN_WIDTH

    def surveyed(self, survey: Survey) -> Session:
        """Return the session with what a replica has found out, which includes the width of all embeddings."""
        nothing_E = np.empty((0, survey.width), np.float32)
        payload = self.payload
        for name, parts in payload.splits.items():
            if name not in self.embedded_splits:
                payload = payload.with_others(name, dict.fromkeys(parts, nothing_E))
        return replace(self, survey=survey, payload=payload, driver_bytes=free_host_bytes())

    def embedded(
        self,
        pool: Pool,
        names: Iterable[str],
        say: Callable[[str], None] = lambda text: None,
        check: Callable[[], None] = lambda: None,
    ) -> Session:
        """Return the session with the other side of splits embedded by a pool, which compares with it from now on.

        Args:
            pool: its replicas embed a share each.
            names: names of the splits; those that are embedded already are left as they are.
            say: receives progress messages.
            check: called while embeddings are awaited; may raise to stop.
        """
        payload, missing = self.payload, [name for name in names if name not in self.embedded_splits]
        prefixes = [goal.prefix for goal in self.objective.goals]
        for name in missing:
            parts = dict(zip(prefixes, self.splits[name], strict=True))
            payload = with_other_side(payload, self.other, {name: parts}, pool, say, check)
            pool.adopt_others(name, {prefix: arrays.other_E for prefix, arrays in payload.splits[name].items()})
        return replace(self, payload=payload, embedded_splits=self.embedded_splits | {*missing})

    @property
    def chunk(self) -> int:
        """Number of inputs computed together; 1 until that is settled."""
        chunk = self.config.search.image_chunk
        return chunk if isinstance(chunk, int) else 1

    @property
    def search_stage(self) -> Stage:
        """The stage at which masks are searched."""
        if self.constants is None:
            raise RuntimeError("the constants of the study are settled before masks are scored")
        return Stage("search", self.constants.precision)

    def search_value(self, metrics: Mapping[str, float]) -> float:
        """Return the value that a mask is searched by, from its metrics on the search split."""
        return self.guide.value(metrics, (self.constants and self.constants.baseline) or {})

    @property
    def surrogate_bytes(self) -> int:
        """Size in bytes of the displacements of all heads that may be ablated."""
        parts = self.payload.splits["search"].values()
        num_heads = len(self.limits.free_heads(self.grid))
        return displacement_bytes(num_heads, [part.embedding_shape for part in parts])

    @property
    def surrogate_room(self) -> float:
        """Memory in bytes that displacements may take: what the user says, or a part of what is free everywhere.

        They are collected by the driver and kept once on every host; a group of shards keeps a part on every device.
        """
        if self.config.search.surrogate_gib is not None:
            return self.config.search.surrogate_gib * 2**30
        if self.survey is None:
            raise RuntimeError("a replica says how much memory is free before that is asked for")
        on_devices = [] if self.survey.device_bytes is None else [self.shards * self.survey.device_bytes]
        return MEMORY_SHARE * min(self.driver_bytes, self.survey.host_bytes, *on_devices)

    @property
    def surrogate_fits(self) -> bool:
        """Whether displacements fit in the memory allowed for them."""
        return self.surrogate_bytes <= self.surrogate_room

    @property
    def uses_surrogate(self) -> bool:
        """Whether masks are predicted from the results of the scan; a scan alone has nothing to predict."""
        if self.settled_surrogate is not None:
            return self.settled_surrogate
        search = self.config.search
        return search.surrogate and search.strategy != ScanSampler.label and self.surrogate_fits

    @property
    def decides_embeddings(self) -> tuple[Any, ...]:
        """Everything that determines the search split's embeddings under a mask, except the kind of device."""
        means_LHd = self.constants.means_LHd if self.constants else None
        keys = "model", "tower", "preprocess", "ablation", "engine", "precision", "image_chunk", "threads"
        digests = [split.digest for split in self.splits["search"]]
        # The weights do not tell the activation; the structure does.
        return self.model.clip, digests, means_LHd, *(self.fingerprint[key] for key in keys)

    @property
    def remarks(self) -> dict[str, ImageRemarks]:
        """Remarks on the images of every data set, by its name."""
        names, found = [goal.data for goal in self.objective.goals], {}
        for index, name in enumerate(names):
            parts = [splits[index] for splits in self.splits.values()]
            found[name] = ImageRemarks.of(sum(len(part.pixels) for part in parts), [part.remarks for part in parts])
        return found

    def remark_sentences(self) -> list[str]:
        """Return sentences on unusual images, to be shown before a search; empty if all are ordinary."""
        rule = self.config.search.pixels
        return [text for name, each in self.remarks.items() for text in each.sentences(rule, name)]

    @property
    def _rules_differ(self) -> bool:
        return any(split.remarks.differing for parts in self.splits.values() for split in parts)

    def check_pixels(self) -> None:
        """Check that the decoded pixels have not changed since they were decoded.

        Raises:
            PixelsChangedError: they have.
        """
        check_all(split.pixels for parts in self.splits.values() for split in parts)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Everything that determines a study, as JSON values; the budget does not."""
        search = self.config.search
        goals = self.objective.goals
        several = {
            "tasks": [split.targets.task for split in self.splits["search"]],
            "combine": self.objective.combine,
            "max_loss": {goal.data: goal.max_loss for goal in self.objective.guarded},
        }
        return {
            "model": self.model.reference.weights_sha256,
            "grid": str(self.grid),
            "data": self.digests,
            "preprocess": self.preprocessing,
            # If the rules agree on all images, the study is the same under both. Earlier studies have no such key.
            **({"pixels": search.pixels} if search.pixels == STOCK and self._rules_differ else {}),
            "task": self.splits["search"][0].targets.task if len(goals) == 1 else several,
            "objective": _names(self.objective),
            "guide": _names(self.guide),
            "engine": REVISION,
            "strategies_revision": STRATEGIES[search.strategy].revision_with(self.uses_surrogate),
            # A setting of 0.1, which all studies that go on had at its default.
            "gate_share": 0.0,
            "surrogate": self.uses_surrogate,
            # Studies from before there were others have the smallest.
            **({"width": self.width} if self.width > MIN_WIDTH else {}),
            **search.decisive(),
            # Their order has no effect.
            "protect": sorted(search.protect),
        }

    @property
    def digest(self) -> str:
        """The fingerprint as one short digest."""
        return digest_of(self.fingerprint)


def width_for(num_replicas: int) -> int:
    """Return the width of a study that begins with so many replicas, unless it is told one."""
    return max(MIN_WIDTH, ceil(SPARE * num_replicas))


def digest_of(fingerprint: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits of a fingerprint's SHA-256."""
    return hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()[:16]


def load(config: SearchConfig, say: Callable[[str], None] = lambda text: None) -> Session:
    """Return the session of a configuration as far as it needs no forward pass: model and data, loaded and decoded.

    Args:
        config: the configuration of the search.
        say: receives progress messages of slow steps.

    Raises:
        HeadmaskError: the model, its tower, the data or the limits do not fit; raised before any replica is started.
    """
    search = config.search
    for section in config.data:
        check_data(Path(section.path), section.reading())
    model = load_model(config.model.name, config.model.pretrained, preprocess=config.model.preprocess)
    model = model.with_pixels(search.pixels)
    config = _with_model(config, model)
    for note in model.notes:
        say(note)
    view = view_of(model.clip, search.tower)
    find_ablation(search.ablation).check(has_class_token=view.has_class_token, means=())
    limits = _limits(config, view.grid)
    preprocess = UInt8Preprocess(model.preprocess)
    data = {
        name: load_section(section, preprocess, say=say, may_draw=True) for name, section in config.data_sets.items()
    }
    _check_clipped(config, data)
    objective = make_objective(config, data)
    guide = make_guide(config, data, objective)
    splits = {name: tuple(parts[name] for parts in data.values()) for name in SPLITS}
    settings = ScorerSettings(search.ablation, search.threads)
    prefixes = [goal.prefix for goal in objective.goals]
    arranged = {name: dict(zip(prefixes, parts, strict=True)) for name, parts in splits.items()}
    payload, other = bare_payload(model, preprocess, arranged, settings, search.tower)
    described = preprocess.description
    session = Session(config, model, view, limits, splits, objective, guide, payload, other, described)
    for text in session.remark_sentences():
        say(text)
    return session


def prepare(config: SearchConfig, say: Callable[[str], None] = lambda text: None) -> Session:
    """Return the session of a configuration with everything done that a search needs, in this process.

    Args:
        config: the configuration of the search.
        say: receives progress messages of slow steps.

    Raises:
        HeadmaskError: see `load`; or the tower is refused.
    """
    session = load(config, say)
    with closing(InlinePool(session.payload)) as pool:
        return ready(session, pool, say).embedded(pool, SPLITS, say)


def ready(session: Session, pool: Pool, say: Callable[[str], None] = lambda text: None) -> Session:
    """Return a session with all that is needed before masks are scored on the search split, done by a pool's replicas.

    The tower is proven, the cost of masks counted, and the other side of the search split embedded.

    Raises:
        ModelError: the tower is refused.
    """
    session = session if session.survey else session.surveyed(pool.survey())
    session = replace(session, shards=pool.shards)
    return session.embedded(pool, ["search"], say)


def _with_model(config: SearchConfig, model: LoadedModel) -> SearchConfig:
    """Return the configuration with the model's paths made valid from any folder."""
    wanted, reference = config.model.preprocess, model.reference
    if wanted is not None and is_file(wanted) and wanted != OPENAI and not is_tag(reference.name, wanted):
        wanted = absolute(wanted)
    section = ModelSection(name=reference.name, pretrained=reference.pretrained, preprocess=wanted)
    return config.model_copy(update={"model": section})


def _check_clipped(config: SearchConfig, data: Mapping[str, Mapping[str, Split]]) -> None:
    """Refuse to choose a pixel rule for the user if stock open_clip would make images white or black.

    Raises:
        ConfigError: images have values of more than 8 bits, and no pixel rule is given.
    """
    if "pixels" in config.search.model_fields_set:
        return
    for name, splits in data.items():
        if num_clipped := sum(len(split.remarks.clipped) for split in splits.values()):
            have = "has" if num_clipped == 1 else "have"
            raise ConfigError(
                f"{counted(num_clipped, 'image')} of {name} {have} values of more than 8 bits, which stock open_clip "
                "cuts off at 255, so that they become white or black. Save them with 8 bits; or say with --pixels "
                "composited that they are scaled, here and wherever the model is used; or with --pixels stock that "
                "they are scored as they are"
            )


def load_section(
    section: DataSection,
    preprocess: UInt8Preprocess,
    *,
    whole: bool = False,
    may_draw: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Split]:
    """Return the splits of a data set, decoded."""
    on_progress = said_when_slow(say, f"Decoding the images of {section.path}, once")
    reading = section.reading()
    return load_data(Path(section.path), preprocess, reading, whole=whole, may_draw=may_draw, on_progress=on_progress)


def make_objective(config: SearchConfig, data: Mapping[str, Mapping[str, Split]]) -> Objective:
    """Return the objective: for every data set its own, else the search's, else that of its task.

    Raises:
        ConfigError: an objective uses metrics that a data set's task does not have.
    """
    goals = []
    for name, section in config.data_sets.items():
        targets = data[name]["search"].targets
        mix = Mix.parse(section.objective or config.search.objective or targets.default_objective)
        targets.check(mix, section.path)
        max_loss = None if section.max_loss is None else section.max_loss / 100
        goals.append(Goal(name, mix, max_loss, prefix=f"{name}/" if len(data) > 1 else ""))
    return Objective(tuple(goals), config.search.combine)


def make_guide(config: SearchConfig, data: Mapping[str, Mapping[str, Split]], objective: Objective) -> Objective:
    """Return the guide: for every data set its own, else the search's, else the one for its objective.

    The smallest of several objectives is its own guide, because which one it is depends on the metrics, and a limit
    of loss applies to the objective.

    Raises:
        ConfigError: a guide uses metrics that a data set's task does not have.
    """
    is_worst = objective.combine == "worst" and len(objective.improved) > 1
    mixes = []
    for goal, section in zip(objective.goals, config.data_sets.values(), strict=True):
        targets = data[goal.data]["search"].targets
        text = section.guide or config.search.guide
        if goal.max_loss is not None or text == OBJECTIVE or (text is None and is_worst):
            mixes.append(goal.mix)
        elif text is None:
            mixes.append(goal.mix.guided(targets.guides))
        else:
            mixes.append(Mix.parse(text))
            targets.check(mixes[-1], section.path)
    return objective.guided(mixes)


def _names(objective: Objective) -> str | list[str]:
    names = [str(goal) for goal in objective.goals]
    return names if len(names) > 1 else names[0]


def _limits(config: SearchConfig, grid: HeadGrid) -> Limits:
    search = config.search
    layers = None if search.layers is None else frozenset(search.layers)
    limits = Limits(layers=layers, protect=frozenset(search.protect), max_heads=search.max_heads)
    limits.check(grid)
    return limits
