"""`queries.parquet`: the result of every query of the confirm and test splits, before and after, and how it is read.

It holds all that paired statistics need, so that runs are compared without their model and data, and without torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from headmask.border.foreign import reason_of
from headmask.border.kinds import QUERIES, parquet_metadata
from headmask.border.shown import shown
from headmask.border.writing import written
from headmask.errors import DataError, HeadmaskError
from orchestrator.statistics.paired import Outcomes
from orchestrator.study.runfolder import read_parquet
from orchestrator.verdict.outcomes import outcomes_of
from workers.tasks.base import Targets
from workers.tasks.metrics import Mix, Ranks
from workers.tasks.registry import KINDS, TASKS

if TYPE_CHECKING:
    from orchestrator.search.session import Session
    from orchestrator.verdict.decide import Verdict
    from workers.data.loading import Split
    from workers.scoring.messages import MaskScore

# N images, Q queries of a kind

SIDES = ("baseline", "selected")
_SCHEMA = pa.schema({
    "data": pa.string(),
    "split": pa.string(),
    "task": pa.string(),
    "num_classes": pa.int32(),
    "digest": pa.string(),
    "kind": pa.string(),
    "query": pa.int32(),
    "image": pa.int32(),
    "row": pa.int32(),
    "cluster": pa.int32(),
    "label": pa.int32(),
    "group": pa.int32(),
    **{f"{side}_rank": pa.uint8() for side in SIDES},
    **{f"{side}_probability": pa.float32() for side in SIDES},
})  # fmt: skip


def write_queries(session: Session, verdict: Verdict, path: Path) -> None:
    """Write one row per query of the confirm and test splits of every data set.

    `query` counts the queries of a kind (captions for `t2i`, images for `i2t` and `class`, pairs in matching), `image`
    is the query's image in its split, `row` that image's row in the data file, `cluster` what is resampled together.
    Ranks count the competitors that score not less than the right answer, clipped at 255; of kinds without
    probabilities, those are null.
    """
    chosen = verdict.selected
    scores = {
        "confirm": [verdict.finalist(mask).confirm for mask in (verdict.baseline, chosen)],
        "test": [verdict.test[mask] for mask in (verdict.baseline, chosen)],
    }
    tables = []
    for name, sides in scores.items():
        for place, (goal, split) in enumerate(zip(session.objective.goals, session.splits[name], strict=True)):
            ranks = [_ranks(side, place) for side in sides]
            tables += [_table(goal.data, split, kind, ranks) for kind in split.targets.kinds]
    table = pa.concat_tables(tables).replace_schema_metadata(parquet_metadata("queries"))
    with written(path, QUERIES) as scratch:
        pq.write_table(table, scratch, write_page_checksum=True)


def _ranks(score: MaskScore, place: int) -> Ranks:
    if score.ranks is None:
        raise ValueError("the baseline and the selected mask were scored with their ranks")
    return score.ranks[place]


def _table(data: str, split: Split, kind: str, sides: list[Ranks]) -> pa.Table:
    targets = split.targets
    image_Q = targets.image_of_queries[kind]
    count, own = len(image_Q), targets.columns()
    columns: dict[str, Any] = {
        "data": np.repeat(data, count),
        "split": np.repeat(split.name, count),
        "task": np.repeat(targets.task, count),
        **{name: np.broadcast_to(value, count) for name, value in own.items() if value is not None},
        "digest": np.repeat(split.digest, count),
        "kind": np.repeat(kind, count),
        "query": np.arange(count),
        "image": image_Q,
        "row": split.pixels.rows_N[image_Q],
        "cluster": split.clusters_N[image_Q],
    }
    for side, ranks in zip(SIDES, sides, strict=True):
        columns[f"{side}_rank"] = ranks[kind]
        columns[f"{side}_probability"] = _graded(ranks, kind)
    arrays = [
        pa.nulls(count, field.type)
        if (values := columns.get(field.name)) is None
        else pa.array(values).cast(field.type)
        for field in _SCHEMA
    ]
    return pa.table(arrays, schema=_SCHEMA)


def _graded(ranks: Ranks, kind: str) -> NDArray[Any] | None:
    """Return the graded credits of a kind's queries; None of kinds without."""
    graded = KINDS[kind].graded
    return None if graded is None else ranks[graded]


@dataclass(frozen=True, eq=False)
class Queries:
    """The queries of one split of a data set."""

    data: str
    split: str
    digest: str
    targets: Targets
    clusters_N: NDArray[np.int64]
    """The cluster of every image, -1 of those that no query belongs to."""
    ranks: Mapping[str, Ranks]
    """Ranks of `baseline` and `selected`."""
    table: pa.Table
    """All columns of `queries.parquet`."""

    def outcomes(self, side: str, mix: Mix) -> Outcomes:
        """Return the paired-statistics table of `baseline` or `selected`, for a mix of the task's metrics."""
        return outcomes_of(self, self.ranks[side], mix)


@dataclass(frozen=True, eq=False)
class Earned:
    """Results of a mask on one split of a data set, of which only the digest is known."""

    digest: str
    ranks: Ranks


def read_earned(path: Path, side: str) -> dict[tuple[str, str], Earned]:
    """Return the results of `baseline` or `selected` by data set and split: a small part of `read_queries`.

    Raises:
        DataError: the file is missing or not Parquet.
    """
    keys = ["data", "split", "kind", "digest"]
    table = _read(path, [*keys, f"{side}_rank", f"{side}_probability"], keys)
    rank_Q, column = table[f"{side}_rank"].to_numpy(), table[f"{side}_probability"].combine_chunks()
    probability_Q = column.to_numpy(zero_copy_only=False)
    names = [table[key].combine_chunks() for key in keys]
    codes = np.stack([each.indices.to_numpy() for each in names])
    starts = np.flatnonzero((np.diff(codes, prepend=-1) != 0).any(0))
    found: dict[tuple[str, str], Earned] = {}
    for start, stop in pairwise([*starts.tolist(), len(table)]):
        data, split, kind, digest = (each[start].as_py() for each in names)
        ranks: dict[str, Any] = {kind: rank_Q[start:stop]}
        if (graded := KINDS[kind].graded) is not None:
            ranks[graded] = probability_Q[start:stop]
        before = found.get((data, split))
        found[data, split] = Earned(digest, {**(before.ranks if before else {}), **ranks})
    return found


def read_queries(path: Path) -> list[Queries]:
    """Return the queries that `write_queries` wrote, one entry per data set and split.

    Raises:
        DataError: the file is missing or not Parquet.
    """
    table = _read(path, _SCHEMA.names)
    try:
        return [_queries(part) for part in _parts(table)]
    except (HeadmaskError, LookupError, TypeError, ValueError, pa.ArrowException) as error:
        raise _no_queries(path, reason_of(error)) from None


def _read(path: Path, columns: list[str], as_codes: Sequence[str] = ()) -> pa.Table:
    table = read_parquet(path, columns, tuple(as_codes))
    types = {
        name: pa.dictionary(pa.int32(), pa.string()) if name in as_codes else _SCHEMA.field(name).type
        for name in columns
    }
    if wrong := [name for name in columns if table.schema.field(name).type != types[name]]:
        raise _no_queries(path, f"{', '.join(wrong)} is of another type")
    if not len(table):
        raise _no_queries(path, "it has no rows")
    if unknown := set(pc.unique(table["task"]).to_pylist()) - set(TASKS) if "task" in columns else set():
        raise _no_queries(path, f"there is no task {', '.join(map(str, unknown))}")
    return table.unify_dictionaries()


def _no_queries(path: Path, why: str) -> DataError:
    return DataError(f"{shown(path)} is not a queries.parquet of a search: {why}")


def _parts(table: pa.Table) -> Iterator[pa.Table]:
    """Yield the rows of every data set and split, in order of the file."""
    keys = table.select(["data", "split"]).group_by(["data", "split"], use_threads=False).aggregate([]).to_pylist()
    for key in keys:
        yield table.filter((pc.field("data") == key["data"]) & (pc.field("split") == key["split"]))


def _queries(table: pa.Table) -> Queries:
    first = table.slice(0, 1).to_pylist()[0]
    kinds = {kind: table.filter(pc.field("kind") == kind) for kind in table["kind"].unique().to_pylist()}
    ranks: dict[str, dict[str, NDArray[Any]]] = {}
    for side in SIDES:
        ranks[side] = {kind: part[f"{side}_rank"].to_numpy() for kind, part in kinds.items()}
        ranks[side] |= {
            graded: part[f"{side}_probability"].to_numpy()
            for kind, part in kinds.items()
            if (graded := KINDS[kind].graded) is not None
        }
    image_Q, cluster_Q = (table[name].to_numpy().astype(np.int64) for name in ("image", "cluster"))
    clusters_N = np.full(int(image_Q.max()) + 1, -1, dtype=np.int64)
    clusters_N[image_Q] = cluster_Q
    task = TASKS[first["task"]]
    num_images = task.images_per_query()
    # Images that follow a query's first one are no queries of their own.
    clusters_N = clusters_N[::num_images].repeat(num_images)
    targets = task.restored({kind: {name: _numbers(part[name]) for name in _RESTORING} for kind, part in kinds.items()})
    return Queries(first["data"], first["split"], first["digest"], targets, clusters_N, ranks, table)


_RESTORING = ("image", "num_classes", "label", "group")
"""Columns that a task is known by."""


def _numbers(column: pa.ChunkedArray) -> NDArray[np.int64] | None:
    return None if column.null_count else column.to_numpy().astype(np.int64)
