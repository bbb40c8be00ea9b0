"""Trials as Parquet, results as tables on a terminal."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table

from headmask.border.foreign import reason_of
from headmask.border.kinds import MASK, TRIALS, parquet_metadata
from headmask.border.shown import counted, shown
from headmask.border.writing import written
from headmask.errors import DataError, HeadmaskError
from headmask.mask import HeadGrid, HeadMask
from headmask.maskfile import HeadFile
from orchestrator.outcome.schema import RELIABLE, Guarded, SearchResult, SplitResult, TestResult
from orchestrator.screen.terminal import Terminal
from orchestrator.settings.budget import STOPS
from orchestrator.statistics.clusters import Clusters, doubt, in_words, too_few
from orchestrator.statistics.paired import Evidence
from orchestrator.study.looks import looked
from orchestrator.study.records import TrialRecord
from orchestrator.study.runfolder import read_parquet

if TYPE_CHECKING:
    from headmask.apply.proof import ExportProof
    from orchestrator.verdict.evaluate import Evaluation


CANDIDATE, CANDIDATE_SCALES = "candidate.json", "candidate-scales.json"
"""Files with what a search or a refinement without a reliable improvement has selected, beside the empty file."""


def write_trials(records: Sequence[TrialRecord], path: Path) -> None:
    """Write one row per trial, in order of proposal, with its mask as text and as words."""
    metrics = sorted({metric for record in records for metric in record.metrics})
    columns: dict[str, pa.Array] = {
        "proposal": pa.array([record.proposal for record in records], pa.int64()),
        "mask": pa.array([str(record.mask) for record in records], pa.string()),
        "words": pa.array([record.mask.words for record in records], pa.list_(pa.int64())),
        "num_heads": pa.array([len(record.mask) for record in records], pa.int32()),
        "state": pa.array(["FAIL" if record.failure else "COMPLETE" for record in records], pa.string()),
        "value": pa.array([record.value for record in records], pa.float64()),
        "strategy": pa.array([record.strategy for record in records], pa.string()),
        "seconds": pa.array([record.seconds for record in records], pa.float64()),
        "failure": pa.array([record.failure for record in records], pa.string()),
        "device": pa.array([record.device for record in records], pa.string()),
    }
    for metric in metrics:
        columns[metric] = pa.array([record.metrics.get(metric) for record in records], pa.float64())
    table = pa.table(columns).replace_schema_metadata(parquet_metadata("trials"))
    with written(path, TRIALS) as scratch:
        pq.write_table(table, scratch, write_page_checksum=True)


def read_trials(path: Path, grid: HeadGrid) -> list[TrialRecord]:
    """Return the trials that `write_trials` wrote.

    Raises:
        DataError: the file is missing, not Parquet, or damaged.
    """
    rows = read_parquet(path).to_pylist()
    try:
        return [_record(row, grid) for row in rows]
    except (HeadmaskError, LookupError, TypeError, ValueError) as error:
        raise DataError(f"{shown(path)} is not a trials.parquet of a search: {reason_of(error)}") from None


_FIELDS = ("proposal", "value", "strategy", "seconds", "failure", "device")


def _record(row: dict[str, Any], grid: HeadGrid) -> TrialRecord:
    others = (*_FIELDS, "mask", "words", "num_heads", "state")
    metrics = {name: value for name, value in row.items() if name not in others and value is not None}
    return TrialRecord(
        mask=HeadMask(grid, tuple(row["words"])), metrics=metrics, **{name: row[name] for name in _FIELDS}
    )


def metrics_table(title: str, baseline: dict[str, float], masked: dict[str, float], what: str = "masked") -> Table:
    """Return metrics of the baseline and of a mask or scales side by side, in points."""
    table = Table(title=title, title_justify="left")
    for column in ("metric", "baseline", what, "change"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for metric, before in baseline.items():
        after = masked[metric]
        table.add_row(metric, f"{100 * before:.2f}", f"{100 * after:.2f}", f"{100 * (after - before):+.2f}")
    return table


def transfer_table(rows: Sequence[Sequence[Evaluation]]) -> Table:
    """Return a table of masks by data sets: the change by each mask on each data set, in points, with intervals."""
    table = Table(title="change in points, with its 95 % interval", title_justify="left")
    table.add_column("mask")
    for each in rows[0]:
        baseline = 100 * each.baseline[each.objective]
        table.add_column(f"{each.data.stem}\n{each.objective}\nbaseline {baseline:.2f}", justify="right")
    for row in rows:
        cells = []
        for each in row:
            found = each.evidence.interval
            sure = "too few groups" if found is None else "{:+.2f} to {:+.2f}".format(*(100 * end for end in found))
            cells.append(f"{100 * each.delta:+.2f}\n({sure})")
        path = row[0].mask_path
        table.add_row(f"{path.parent.name}/{path.name}\n{row[0].mask.summary}", *cells)
    return table


def footprint_table(proof: ExportProof) -> Table:
    """Return a table of a tower's footprint before and after an export."""
    from headmask.apply.card import footprint_rows

    table = Table()
    for column in ("", "before", "after"):
        table.add_column(column, justify="right" if column else "left", overflow="fold")
    for row in footprint_rows(proof):
        table.add_row(*row)
    return table


def show_result(console: Terminal, result: SearchResult) -> None:
    """Print the result of a search: a table of the splits, then the verdict as text."""
    console.print(splits_table(result.objective, split_rows(result)))
    for line in sentences(result):
        console.say(line)


SPLIT_COLUMNS = ("split", "images", "baseline", "selected", "change", "")


def splits_table(objective: str, rows: Sequence[Sequence[str]]) -> Table:
    """Return the table of the three splits for a terminal."""
    table = Table(title=f"{objective} in points", title_justify="left")
    for column in SPLIT_COLUMNS:
        table.add_column(column, justify="left" if column in ("split", "") else "right")
    for row in rows:
        table.add_row(*row)
    return table


def as_html(objective: str, lines: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a result for a notebook: the verdict, the table of the three splits, the other sentences."""
    verdict, *others = map(html.escape, lines)
    header = "".join(f"<th>{name}</th>" for name in SPLIT_COLUMNS)
    body = "".join(f"<tr><td>{'</td><td>'.join(map(html.escape, row))}</td></tr>" for row in rows)
    caption = f"<caption>{html.escape(objective)} in points</caption>"
    rest = "".join(f"<p>{line}</p>" for line in others)
    return f"<p><strong>{verdict}</strong></p><table>{caption}<tr>{header}</tr>{body}</table>{rest}"


def split_rows(result: SearchResult) -> list[tuple[str, ...]]:
    """Return a row per split: name, images, the objective's baseline, selected and change in points, a remark."""
    tells = {"search": _search_tell(result), "confirm": "chosen here", "test": "never chosen on"}
    rows: list[tuple[str, ...]] = []
    for name, tell in tells.items():
        split = getattr(result.splits, name)
        before, after = split.baseline[result.objective], split.selected[result.objective]
        change = f"{100 * (after - before):+.2f}"
        rows.append((name, str(split.num_images), f"{100 * before:.2f}", f"{100 * after:.2f}", change, tell))
    return rows


def _search_tell(result: SearchResult) -> str:
    if result.prospects is None or result.prospects.noise is None:
        return "optimistic"
    return f"optimistic; noise is ±{100 * result.prospects.noise:.2f}"


def sentences(result: SearchResult) -> list[str]:
    """Return the verdict as sentences."""
    test = result.splits.test
    delta = 100 * test.delta[result.objective]
    sure = in_words(test.interval, test.p_value, too_few(improved_clusters(result.splits.test, result.guarded), "test"))
    figures = f"{delta:+.2f} points on test, {sure}"
    heads = ", ".join(result.selected) or "none"
    lines = []
    if result.verdict == RELIABLE:
        lines.append(f"Reliable improvement: ablating {heads} changes {result.objective} by {figures}.")
    else:
        lines.append(
            f"No reliable improvement: the best mask on confirm ({heads}) changes {result.objective} by {figures}. "
            f"{doubt_sentence(test, result.guarded)}Recommended: the empty mask, the model as it is."
        )
        if result.selected:
            lines.append(empty_mask_sentence(Path(result.mask_file)))
    lines += guarded_sentences(result.guarded, test.clusters)
    if result.random_masks.percentile is not None:
        share, count = result.random_masks.percentile, result.random_masks.num_masks
        lines.append(
            f"For context: on confirm it beats {share:.0f} % of {counted(count, 'random mask')} with as many heads per "
            "layer."
        )
    if few := too_few(improved_clusters(result.splits.confirm, result.guarded), "confirm"):
        lines.append(
            f"{few[0].upper()}{few[1:]}: too few to say which smaller masks are as good as the best one there, so the "
            "best one is selected."
        )
    lines += _size_sentences(result)
    if result.test_looks > 1:
        lines.append(looked(result.test_looks))
    lines += result.pixels.sentences if result.pixels else []
    if result.num_failed:
        lines.append(f"{counted(result.num_failed, 'mask')} could not be scored; trials.parquet says why.")
    lines.append(f"Stopped {STOPS[result.stopped_by]}.{_prospects_sentence(result)}")
    lines.append(f"{counted(result.num_masks, 'mask')} in {result.seconds:.0f} s. Mask: {result.mask_file}")
    return lines


def guarded_sentences(found: Sequence[Guarded], clusters: Sequence[Clusters]) -> list[str]:
    """Return a sentence per data set on which little may be lost.

    Args:
        found: their results on test.
        clusters: of the test splits of all data sets.
    """
    lines = []
    for guarded in found:
        shown = "shown" if guarded.holds else "not shown"
        own = [each for each in clusters if each.data == guarded.data]
        lines.append(
            f"{guarded.data}: {guarded.objective} changes by {100 * guarded.delta:+.2f} points, "
            f"{in_words(guarded.interval, None, too_few(own, 'test'))}; that it loses no more than "
            f"{100 * guarded.max_loss:g} is {shown}{_too_few_differing(guarded)}."
        )
    return lines


def improved_clusters(split: SplitResult, guarded: Sequence[Guarded]) -> list[Clusters]:
    """Return the clusters of the data sets whose objective is improved: all but the guarded ones."""
    names = {each.data for each in guarded}
    return [each for each in split.clusters if each.data not in names]


def doubt_sentence(test: TestResult, guarded: Sequence[Guarded]) -> str:
    """Return why nothing is claimed although the interval lies above zero, to precede the recommendation."""
    if test.num_differing is None:
        return ""
    fewest = min((each.effective for each in improved_clusters(test, guarded)), default=0.0)
    found = doubt(Evidence(test.interval, test.p_value, fewest, test.num_differing))
    return f"{found[0].upper()}{found[1:]}. " if found else ""


def _too_few_differing(guarded: Guarded) -> str:
    """Return why a limit is not shown to hold although the interval lies above it."""
    if guarded.holds or guarded.interval is None or guarded.interval[0] < -guarded.max_loss:
        return ""
    return f": too few independent groups of images change ({guarded.num_differing}) to know what others would do"


def empty_mask_sentence(path: Path, content: HeadFile | None = None) -> str:
    """Return a sentence on a mask file or scales file without heads: it has no effect, and where another one is."""
    scales = content is not None and content.NAME != MASK
    sentence = f"{path} {'changes' if scales else 'ablates'} nothing: with it, the model is as it was"
    candidate = path.with_name(CANDIDATE_SCALES if scales else CANDIDATE)
    if not candidate.is_file():
        return f"{sentence}."
    best = "The scales that its refinement selected, which were" if scales else "The best mask of its search, which was"
    return f"{sentence}. {best} not shown to help, {'are' if scales else 'is'} in {candidate}."


def _size_sentences(result: SearchResult) -> list[str]:
    """Return sentences on what fewer heads would do, and what pruning the selected ones would save."""
    size, lines = result.size, []
    if size.knee is not None:
        first, top, last = size.front[0], next(each for each in size.front if each.heads == size.knee), size.front[-1]
        share = (top.search - first.search) / (last.search - first.search)
        heads, verb = counted(len(top.heads), "head"), "brings" if len(top.heads) == 1 else "bring"
        lines.append(
            f"Size: on search, {heads} ({', '.join(top.heads)}) {verb} {100 * share:.0f} % of what the best mask's "
            f"{len(last.heads)} {'does' if len(last.heads) == 1 else 'do'}."
        )
    if result.selected and size.flops_saved is not None:
        lines.append(
            f"Pruned, the selected heads would save {100 * size.flops_saved:.1f} % of their tower's multiply-adds."
        )
    return lines


def _prospects_sentence(result: SearchResult) -> str:
    """Return a sentence on what further search could bring, to follow why it stopped."""
    found = result.prospects
    if found is None:
        return ""
    if found.noise is None:
        few = (
            too_few(improved_clusters(result.splits.search, result.guarded), "search")
            or "too few independent groups of images on search"
        )
        noise = f"which differences are noise there is not known: {few}"
    else:
        noise = f"differences below {100 * found.noise:.2f} points there are noise"
    if not found.num_more or found.expected is None:
        return f" On the search split, {noise.replace(' there', '')}."
    gain = f"about {100 * found.expected:.1f}" if found.expected >= 0.0005 else "less than 0.05"
    more = counted(found.num_more, "mask")
    return f" Another {more} would be expected to add {gain} points on the search split; {noise}."
