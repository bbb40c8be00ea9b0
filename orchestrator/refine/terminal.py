"""What a refinement says on a terminal."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from headmask.border.shown import counted
from orchestrator.outcome.schema import RELIABLE
from orchestrator.outcome.tables import (
    CANDIDATE_SCALES,
    doubt_sentence,
    guarded_sentences,
    improved_clusters,
    splits_table,
)
from orchestrator.refine.content import RefineResult
from orchestrator.screen.terminal import Terminal
from orchestrator.screen.waiting import duration
from orchestrator.statistics.clusters import in_words, too_few
from orchestrator.study.looks import looked

_TELLS = {"search": "optimistic: scales were trained here", "confirm": "chosen here", "test": "never chosen on"}


def show_refinement(console: Terminal, result: RefineResult) -> None:
    """Print a refinement: a table of the splits, one of what was compared on confirm, the verdict as text."""
    console.print(splits_table(result.objective, split_rows(result)))
    compared = Table(title="compared on confirm", title_justify="left")
    for column in ("scales", "heads changed", "departure", result.objective):
        compared.add_column(column, justify="left" if column == "scales" else "right")
    for each, row in zip(result.candidates, candidate_rows(result), strict=True):
        # Mixtures are many; the page has them all.
        if "%" not in each.name or each.name == result.selected_name:
            compared.add_row(*row)
    console.print(compared)
    for line in sentences(result):
        console.say(line)


def split_rows(result: RefineResult) -> list[tuple[str, ...]]:
    """Return a row per split: name, images, the objective's baseline, selected and change in points, a remark."""
    rows: list[tuple[str, ...]] = []
    for name, part in dict(result.splits).items():
        before, after = part.baseline[result.objective], part.selected[result.objective]
        change = f"{100 * (after - before):+.2f}"
        rows.append((name, str(part.num_images), f"{100 * before:.2f}", f"{100 * after:.2f}", change, _TELLS[name]))
    return rows


def candidate_rows(result: RefineResult) -> list[tuple[str, str, str, str]]:
    """Return a row per candidate: name, heads changed, departure, the objective on confirm in points."""
    return [
        (
            f"{each.name}{' (selected)' if each.name == result.selected_name else ''}",
            str(each.num_changed),
            f"{each.departure:.2f}",
            "?" if each.confirm is None else f"{100 * each.confirm:.2f}",
        )
        for each in result.candidates
    ]


def sentences(result: RefineResult) -> list[str]:
    """Return the verdict as sentences."""
    test = result.splits.test
    few = too_few(improved_clusters(test, result.guarded), "test")
    delta = 100 * test.delta[result.objective]
    figures = f"{delta:+.2f} points on test, {in_words(test.interval, test.p_value, few)}"
    what = _what(result)
    lines = []
    if result.verdict == RELIABLE:
        lines.append(f"Reliable improvement: {what} changes {result.objective} by {figures}.")
    else:
        lines.append(
            f"No reliable improvement: {what} changes {result.objective} by {figures}. "
            f"{doubt_sentence(test, result.guarded)}Recommended: the model as it is."
        )
        if result.selected:
            lines.append(f"The selected scales are in {Path(result.scales_file).with_name(CANDIDATE_SCALES)}.")
    lines += guarded_sentences(result.guarded, test.clusters)
    if (over := result.over_mask) is not None:
        if result.selected_name == "the mask":
            lines.append("On confirm, no scales were better than the mask by more than noise.")
        else:
            sure = in_words(over.interval, over.p_value, few)
            lines.append(f"Against the mask of the search: {100 * over.delta:+.2f} points on test, {sure}.")
    if result.test_looks > 1:
        lines.append(looked(result.test_looks))
    lines.append(f"{duration(result.seconds)}. Scales: {result.scales_file}")
    return lines


def _what(result: RefineResult) -> str:
    if result.selected_name == "the mask":
        return f"the mask of {counted(len(result.selected), 'head')}"
    if not result.selected:
        return "what was selected on confirm, the model as it is,"
    weaker = sum(0 < scale < 1 for scale in result.selected.values())
    stronger = sum(scale > 1 for scale in result.selected.values())
    ablated = len(result.selected) - weaker - stronger
    parts = [(ablated, "ablated"), (weaker, "weakened"), (stronger, "strengthened")]
    listed = ", ".join(f"{count} {done}" for count, done in parts if count)
    return f"scaling {counted(len(result.selected), 'head')} ({listed})"
