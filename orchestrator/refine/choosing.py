"""Which scales are chosen on confirm, and what they do on test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from headmask.scales import HeadScales
from orchestrator.refine.training import MASK, MODEL, Trained
from orchestrator.search.session import Session
from orchestrator.search.tasks import KeptTasks
from orchestrator.settings.objective import Goal
from orchestrator.statistics.paired import Evidence
from orchestrator.statistics.selection import smallest_as_good
from orchestrator.verdict.decide import CONFIRM, TEST, judged, test_evidence
from workers.scoring.messages import MaskScore

SHARES = (0.75, 0.5, 0.25)
"""Parts of the way that are tried besides the whole of it."""


@dataclass(frozen=True)
class Candidate:
    """Scales that may be chosen, with where they come from in words."""

    name: str
    scales: HeadScales


@dataclass(frozen=True)
class Choice:
    """The scales chosen on confirm, and what was seen there and on test."""

    selected: Candidate
    candidates: tuple[Candidate, ...]
    """All that were compared: the model as it is first."""
    mask: HeadScales | None
    confirm: Mapping[HeadScales, MaskScore]
    test: Mapping[HeadScales, MaskScore]
    """Test scores of the model, the mask and the selected scales."""
    evidence: Evidence
    """Uncertainty of the objective's test delta to the model as it is."""
    over_mask: Evidence | None
    """Uncertainty of the objective's test delta to the mask, if there is one."""
    guarded: tuple[tuple[Goal, Evidence], ...]

    @property
    def baseline(self) -> HeadScales:
        """The model as it is."""
        return self.candidates[0].scales

    @property
    def is_reliable(self) -> bool:
        """Whether a reliable improvement on the model as it is may be claimed."""
        return self.evidence.improves and all(goal.holds(evidence) for goal, evidence in self.guarded)

    @property
    def recommended(self) -> HeadScales:
        """The selected scales if they improve reliably, otherwise those that change nothing."""
        return self.selected.scales if self.is_reliable else self.baseline


def candidates(
    trained: Sequence[Trained], baseline: HeadScales, mask: HeadScales | None, *, keeps_mask: bool
) -> list[Candidate]:
    """Return the scales to compare on confirm, each once: the model, the mask, trained ones and points between.

    Args:
        trained: scales trained from one or two starts.
        baseline: scales that change nothing.
        mask: the mask to refine, if there is one.
        keeps_mask: whether the mask's heads stay ablated, so that nothing but the mask lies on the way.
    """
    origins = {} if keeps_mask else {MODEL: baseline}
    origins |= {} if mask is None else {MASK: mask}
    listed = [Candidate("the model as it is", baseline)]
    listed += [] if mask is None else [Candidate("the mask", mask)]
    for each in trained:
        name = f"trained from the {each.recipe.start}"
        listed.append(Candidate(name, each.scales))
        listed += [
            Candidate(
                f"{name}, {100 * share:.0f} % and {100 - 100 * share:.0f} % the {origin}",
                scales.toward(each.scales, share),
            )
            for origin, scales in origins.items()
            for share in SHARES
        ]
    by_scales: dict[HeadScales, Candidate] = {}
    for candidate in listed:
        by_scales.setdefault(candidate.scales, candidate)
    return list(by_scales.values())


def choose(
    session: Session,
    tasks: KeptTasks,
    listed: Sequence[Candidate],
    mask: HeadScales | None,
    *,
    before_test: Callable[[Sequence[HeadScales]], None] = lambda scales: None,
) -> Choice:
    """Return the smallest departure from the model that is as good as the best on confirm, and what it does on test.

    Args:
        session: the session, with all splits embedded.
        tasks: scores the candidates.
        listed: the candidates, the model as it is first.
        mask: the mask to compare with on test, if there is one.
        before_test: called with what the test split is about to be looked at with.
    """
    scales, baseline = [each.scales for each in listed], listed[0].scales
    confirm = dict(zip(scales, tasks.scores(CONFIRM, [each.to_array() for each in scales]), strict=True))
    found = judged(session, [confirm[each] for each in scales], confirm[baseline], session.objective)
    departures, order = [each.departure for each in scales], [each.values for each in scales]
    selected = listed[smallest_as_good(departures, order, found.values, found.standard_error)]

    looked = list(dict.fromkeys([baseline, *([] if mask is None else [mask]), selected.scales]))
    before_test(looked)
    test = dict(zip(looked, tasks.scores(TEST, [each.to_array() for each in looked]), strict=True))
    improved, guarded = test_evidence(session, test, baseline, selected.scales)
    over_mask = None if mask is None else test_evidence(session, test, mask, selected.scales)[0]
    return Choice(selected, tuple(listed), mask, confirm, test, improved, over_mask, guarded)
