"""What a task is: the columns that it reads, the right answers of a split, and the metrics of embeddings by them.

Every task ends in ranks of queries: how many competitors score not less than the right answer. A rank is pessimistic
and deterministic, so that a collapsed model cannot score by luck. What queries earn
by their ranks, and what metrics make of it, is in `workers/tasks/metrics.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from headmask.errors import ConfigError
from workers.tasks.metrics import Mix, Ranks, Share, Table

if TYPE_CHECKING:
    from torch import Tensor

    from headmask.tower.towers import TowerName
    from workers.tasks.losses import Indices, MicroBatch

# N images, Q queries of a kind or texts, E embedding

Partial = Mapping[str, NDArray]
"""What `combined` needs from a part of the images."""
MAX_BLOCK = 1024
"""Most images that are compared with a tile of texts at a time, unless more are computed together."""
MIN_ROWS = 128
"""Rows to which fewer are filled up where their numbers are added up, so that they are in the same order."""


@dataclass(frozen=True)
class Rows:
    """What rows of a data set hold besides images, row by row; what their task does not read is empty."""

    split: str
    captions: Sequence[tuple[str, ...]] = ()
    labels: Sequence[int] = ()
    """Number of the class."""
    groups: Sequence[str] = ()
    pairs: Sequence[int] = ()
    class_names: tuple[str, ...] = ()
    """In order of the labels."""
    prompts: tuple[str, ...] = ()
    """Prompts of every class, class by class."""


class Words(Protocol):
    """The words that a split has: see `workers.data.loading.Split`."""

    @property
    def texts(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def class_names(self) -> tuple[str, ...]: ...  # noqa: D102


@dataclass(frozen=True)
class QueryKind:
    """One kind of a task's queries: what is shown of it, and what words it has."""

    title: str | None = None
    """What a report calls these queries; None leaves them out, because they are parts of another kind."""
    text: Literal["caption", "class"] | None = None
    """The text that is asked with or looked for: one caption, or the name of the class; None where there is none."""
    graded: str | None = None
    """The kind that holds the same queries' graded credits, such as probabilities."""
    symbol: str = "p"
    """What a graded credit is called where there is little room."""
    shows_graded: bool = False
    """Whether a report has the graded credit beside the rank."""
    num_images: int = 1
    """Images that a query is about: the one that it belongs to, and those that follow."""
    is_ranked: bool = True
    """Whether there are ranks beyond the first; a query without them is matched or not."""


@dataclass(frozen=True)
class Chance:
    """A metric, its name in words, its value by chance, and the number of queries that it is a share of."""

    metric: str
    words: str
    value: float
    num_queries: int
    suspects: str
    """What to check if a model does not score more than chance."""


class Targets(ABC):
    """The right answers of a split, and how embeddings are measured by them. A subclass is a task."""

    task: ClassVar[str]
    """Name of the task."""
    metrics: ClassVar[tuple[str, ...]]
    """Names of all metrics that a split may have."""
    graded_metrics: ClassVar[tuple[str, ...]] = ()
    """Metrics beside the usual ones, which the terminal leaves out of a comparison."""
    default_objective: ClassVar[str]
    guides: ClassVar[Mapping[str, str]] = {}
    """For metrics that a search overfits, the metric that masks are searched by instead."""
    needs: ClassVar[tuple[str, ...]]
    """Columns that a data set must have."""
    may_have: ClassVar[tuple[str, ...]] = ("split",)
    """Columns that it may have."""
    told_by: ClassVar[tuple[str, ...]] = ()
    """Columns that tell the task where none is named; without any, it has to be."""
    has_prompts: ClassVar[bool] = False
    """Whether texts are prompts with the names of classes."""
    towers: ClassVar[tuple[TowerName, ...]] = ("image", "text")
    """Towers whose heads can be searched."""
    marks_digest: ClassVar[bool] = True
    """Whether the digest of a split begins with the name of the task."""
    kinds: ClassVar[Mapping[str, QueryKind]]
    """All kinds of queries that have ranks. No other task has kinds of these names."""

    @classmethod
    def images_per_query(cls) -> int:
        """Return how many images a query is about."""
        return max(kind.num_images for kind in cls.kinds.values())

    @classmethod
    @abstractmethod
    def of(cls, rows: Rows) -> Self:
        """Return what is right on some rows."""

    @classmethod
    def texts_of(cls, rows: Rows) -> tuple[str, ...]:
        """Return the texts that images are compared with, in the order of their embeddings."""
        return tuple(text for each in rows.captions for text in each)

    @classmethod
    def described(cls, rows: Rows) -> Sequence[tuple[str, ...]]:
        """Return what the digest of a split covers of every row besides its image."""
        return rows.captions

    def words_of(self, image: int, words: Words) -> list[str]:
        """Return the captions of an image, or the name of its class."""
        return [words.texts[image]]

    def word_of(self, kind: str, query: int, words: Words) -> str | None:
        """Return the text of a query; None where its kind has none."""
        if self.kinds[kind].text is None:
            return None
        image = int(self.image_of_queries[kind][query])
        return words.texts[query] if self.kinds[kind].text == "caption" else self.words_of(image, words)[0]

    def columns(self) -> Mapping[str, Any]:
        """Return what `queries.parquet` needs besides ranks for `restored`: a value, or one per query, by column."""
        return {}

    @classmethod
    @abstractmethod
    def restored(cls, columns: Mapping[str, Mapping[str, NDArray[np.int64] | None]]) -> Self:
        """Return the targets from the columns of `queries.parquet` by kind; one without values is None."""

    @property
    @abstractmethod
    def num_units(self) -> int:
        """How many units of training a split has: what a micro-batch takes whole."""

    @property
    def image_of_units(self) -> NDArray[np.int64]:
        """The image, or the first of the images, of every unit of training."""
        return np.arange(self.num_units)

    @abstractmethod
    def micro_batch(self, units_u: Indices, tower: TowerName, num_inputs: int) -> MicroBatch:
        """Return the inputs of some units, and the loss on them.

        Args:
            units_u: units, numbered from 0 to `num_units` - 1.
            tower: tower whose heads have scales.
            num_inputs: number of inputs of that tower on the split.
        """

    @property
    @abstractmethod
    def shares(self) -> Mapping[str, tuple[Share, ...]]:
        """The metrics: each is the mean of its shares."""

    @property
    @abstractmethod
    def image_of_queries(self) -> Mapping[str, NDArray[np.int64]]:
        """The image that every query of a kind belongs to, as the unit of resampling."""

    def measure(self, image_NE: Tensor, text_QE: Tensor, block: int | None = None) -> Ranks:
        """Return the ranks and probabilities that embeddings earn.

        Args:
            image_NE: (N, E) float32, L2-normalised, finite.
            text_QE: (Q, E) float32, L2-normalised, finite; after `pooled`.
            block: images that are compared at a time, a constant of the study: see `block_of`.
        """
        whole, block = slice(0, len(image_NE)), block or block_of(len(image_NE))
        own_Q = self.own_scores(image_NE, text_QE, whole, block)
        return self.combined([self.partial(image_NE, text_QE, whole, own_Q, block)])

    def resampled(self, clusters_N: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the resampling cluster of every image, -1 for images without a query."""
        return clusters_N

    def num_compared(self, width: int) -> int:
        """Return how many numbers the `own_scores` of all parts hold, where other parts need them.

        Args:
            width: length of an embedding.
        """
        return 0

    def own_scores(self, image_nE: Tensor, text_QE: Tensor, part: slice, block: int) -> Tensor:
        """Return the scores of the queries of a part's images with their right answers, for comparison by other parts.

        Args:
            image_nE: (n, E) of a part of the images.
            text_QE: of all texts.
            part: whole blocks; the last one may be cut short by the end of the images.
            block: images that are compared at a time.
        """
        return image_nE.new_empty(0)

    @abstractmethod
    def partial(self, image_nE: Tensor, text_QE: Tensor, part: slice, own_Q: Tensor, block: int) -> Partial:
        """Return a part's share of the ranks, given the `own_scores` of all parts, concatenated.

        Each number is the same whatever other parts there are.
        """

    def combined(self, parts: Sequence[Partial]) -> Ranks:
        """Return the ranks and probabilities from those of all parts, in order."""
        return {kind: np.concatenate([part[kind] for part in parts]) for kind in parts[0]}

    def at_scale(self, scale: float) -> Targets:
        """Return the targets with a model's logit scale, which decides probabilities."""
        return self

    def pooled(self, text_QE: Tensor) -> Tensor:
        """Return the text embeddings that images are compared with, from the L2-normalised embeddings of all texts."""
        return text_QE

    @abstractmethod
    def first(self, num_images: int) -> tuple[Targets, slice, slice]:
        """Return the targets of the first images, which images these are, and which texts belong to them."""

    @property
    def chance(self) -> Chance | None:
        """Scores of a model that guesses; None if good models score little more."""
        return None

    def values(self, ranks: Ranks) -> dict[str, float]:
        """Return every metric in [0, 1]."""
        values = {}
        for name, shares in self.shares.items():
            parts = [share.value(ranks) for share in shares]
            values[name] = sum(parts) / len(parts)
        return values

    def table(self, ranks: Ranks, mix: Mix, clusters_N: NDArray[np.int64]) -> Table:
        """Return the contribution of every cluster of images to a mix.

        Args:
            ranks: ranks of one mask.
            mix: a mix of this task's metrics.
            clusters_N: the cluster of each image, numbered from 0; -1 for images without a query.
        """
        used = {share.kind for name in mix.metrics for share in self.shares[name]}
        cluster_of_queries = {kind: clusters_N[self.image_of_queries[kind]] for kind in used}
        return Table.of(ranks, mix, self.shares, cluster_of_queries, int(clusters_N.max()) + 1)

    def check(self, mix: Mix, where: str) -> None:
        """Check that a mix is of this task's metrics.

        Raises:
            ConfigError: it is not; the message lists them.
        """
        for name in mix.metrics:
            if name not in self.shares:
                raise ConfigError(
                    f"{name} is not a metric of {where}, a data set for {self.task}: there are {', '.join(self.shares)}"
                )


def block_of(num_images: int, chunk: int = 1) -> int:
    """Return the number of images compared at a time: blocks as equal as possible, of whole chunks and whole pairs.

    Args:
        num_images: number of images of the split.
        chunk: images that a tower computes together.
    """
    unit = chunk if chunk % 2 == 0 else 2 * chunk
    num_blocks = -(-num_images // max(MAX_BLOCK, unit))
    return unit * -(-num_images // (num_blocks * unit))


def part_of(num_images: int, block: int, index: int, count: int) -> slice:
    """Return one of several parts of the images: whole blocks, about the same number in each."""
    num_blocks = -(-num_images // block)
    ends = [min(block * (place * num_blocks // count), num_images) for place in (index, index + 1)]
    return slice(*ends)


def blocks(part: slice, size: int) -> Iterator[slice]:
    """Yield a range cut into equal pieces, the last of which may be shorter."""
    for start in range(part.start, part.stop, size):
        yield slice(start, min(start + size, part.stop))


def padded(rows_nE: Tensor, size: int) -> Tensor:
    """Return rows padded with zeros: products of one shape are rounded alike."""
    if len(rows_nE) == size:
        return rows_nE
    whole_sE = rows_nE.new_zeros((size, rows_nE.shape[1]))
    whole_sE[: len(rows_nE)] = rows_nE
    return whole_sE
