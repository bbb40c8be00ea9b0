"""What a search works on, prepared once: model, data, the other side's embeddings, the payload, the fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np

from headmask.ablation.rules import find_ablation
from headmask.apply.pruning import why_not_pruned
from headmask.mask import HeadGrid, HeadMask
from headmask.models.loading import LoadedModel
from headmask.pixels.images import STOCK
from headmask.scales import HeadScales
from headmask.tower.views import TowerView
from orchestrator.search.otherside import OtherSide, with_other_side
from orchestrator.settings.config import SearchConfig
from orchestrator.settings.objective import Objective
from orchestrator.study.looks import Look, looks_at
from orchestrator.study.records import TrialRecord
from strategies import MIN_WIDTH, STRATEGIES, Limits, ScanSampler
from workers.data.loading import Split
from workers.data.pixels import check_all
from workers.data.remarks import ImageRemarks
from workers.pool.protocol import Pool
from workers.pool.queue import Steps
from workers.scoring.constants import Constants
from workers.scoring.displacement import MEMORY_SHARE, displacement_bytes
from workers.scoring.engine import REVISION
from workers.scoring.messages import Stage, Survey
from workers.scoring.replica import Payload, Wanted
from workers.scoring.room import free_host_bytes
from workers.scoring.trie import TowerCost

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
    """The metric that masks are searched by, and that decides on confirm between masks of about the same objective."""
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


def _names(objective: Objective) -> str | list[str]:
    names = [str(goal) for goal in objective.goals]
    return names if len(names) > 1 else names[0]
