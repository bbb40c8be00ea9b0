"""The mask to ship, and why."""

from __future__ import annotations

from collections.abc import Sequence

from headmask.border.shown import counted
from orchestrator.compare.content import Recommendation, RunFigures

SURE = 0.05
"""Largest adjusted p-value of an improvement that is not called into question."""


def recommend(runs: Sequence[RunFigures]) -> Recommendation:
    """Return the mask to ship: of those that improve reliably, the best on confirm, or one as good with fewer heads.

    Masks are as good by the rule of `orchestrator.statistics.selection.as_good`.

    Args:
        runs: best on confirm first.
    """
    ranked = [run for run in runs if run.rank is not None]
    if not ranked:
        return _none("No recommendation: nothing here has confirm scores that may be compared.")
    reliable = [run for run in ranked if run.is_reliable]
    if not reliable:
        unknown = [run.letter for run in ranked if run.is_reliable is None]
        if unknown:
            return _none(
                f"No recommendation: whether {', '.join(unknown)} improve on the model as it is, is not known."
            )
        return _none(f"Ship none: no mask improves reliably on test; keep the model as it is.{_others(runs)}")
    best = reliable[0]
    chosen = min((run for run in reliable if run is best or run.is_as_good), key=lambda run: len(run.heads or ()))
    return Recommendation(
        letter=chosen.letter,
        heads=chosen.heads or [],
        sentence=" ".join([_why(chosen, best, len(reliable), len(ranked)), *_doubts(chosen, reliable)]) + _others(runs),
    )


def _none(sentence: str) -> Recommendation:
    return Recommendation(letter=None, heads=[], sentence=sentence)


def _why(chosen: RunFigures, best: RunFigures, num_reliable: int, num_ranked: int) -> str:
    """Return the reason as text."""
    named, count = f"Ship {chosen.letter} ({chosen.name})", len(chosen.heads or ())
    of_all = "" if num_reliable == num_ranked else f" of {num_ranked}"
    among = f"the {num_reliable}{of_all} that improve reliably" if num_reliable > 1 else ""
    if chosen is best:
        alone = f"of the {num_ranked}, it alone improves reliably" if num_ranked > 1 else "it improves reliably"
        first = f"it is the best on confirm of {among}" if among else alone
    else:
        low, high = (100 * end for end in chosen.best_interval or (0.0, 0.0))
        first = (
            f"with {counted(count, 'head')} it is as good on confirm as {best.letter} with {len(best.heads or ())}, "
            f"the best of {among} (95 % interval of the difference {low:+.2f} to {high:+.2f} points)"
        )
    return f"{named}: {first}.{_gain(chosen)}"


def _gain(run: RunFigures) -> str:
    if run.test is None or run.objective is None or run.interval is None:
        return ""
    delta = 100 * (run.test.selected[run.objective] - run.test.baseline[run.objective])
    low, high = (100 * end for end in run.interval)
    heads = ", ".join(run.heads or ()) or "nothing"
    done = f"Ablating {heads}" if run.scales is None else f"Scaling {counted(len(run.scales), 'head')}"
    return (
        f" {done} changes {run.objective} by {delta:+.2f} points on test "
        f"against the model as it is, 95 % interval {low:+.2f} to {high:+.2f}."
    )


def _doubts(chosen: RunFigures, reliable: Sequence[RunFigures]) -> list[str]:
    """Return the doubts about the choice."""
    doubts = []
    if chosen.best_test_interval is not None and chosen.best_test_interval[1] < 0:
        low, high = (100 * end for end in chosen.best_test_interval)
        best = reliable[0].letter
        doubts.append(
            f"On test, where nothing is chosen, it is worse than {best} (95 % interval {low:+.2f} to {high:+.2f} "
            f"points): take {best} if the number of heads does not matter."
        )
    if chosen.p_adjusted is not None and chosen.p_adjusted > SURE:
        doubts.append(
            f"Adjusted for the runs on this test split, that is no longer significant (Holm, "
            f"p = {chosen.p_adjusted:.4f}): confirm it on new data before you rely on it."
        )
    unpaired = [run.letter for run in reliable[1:] if run.is_as_good is None]
    if unpaired:
        doubts.append(f"Whether {', '.join(unpaired)} are as good cannot be said without paired results.")
    return doubts


def _others(runs: Sequence[RunFigures]) -> str:
    """Return the runs that are not part of the choice."""
    left = [run.letter for run in runs if run.rank is None]
    return f" Not part of this choice: {', '.join(left)}." if left else ""
