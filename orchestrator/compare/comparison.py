"""From the masks to a comparison: ranked on confirm, never on test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from headmask.errors import HeadmaskError
from orchestrator.compare.content import Comparison, Difference, RunFigures, SplitFigures
from orchestrator.compare.curves import best_so_far
from orchestrator.compare.entrant import Entrant
from orchestrator.compare.panel import SPLITS, Panel, Ranked, draw
from orchestrator.compare.recommend import recommend
from orchestrator.compare.relation import Relation, relate, sentences, share_test
from orchestrator.settings.objective import Objective
from orchestrator.statistics.paired import MIN_CLUSTERS, holm
from orchestrator.statistics.selection import as_good
from orchestrator.verdict.queries import read_queries

T = TypeVar("T")
ReferenceBy = Literal["named first", "best on confirm"]


def compare(entrants: Sequence[Entrant], reference_by: ReferenceBy = "named first") -> Comparison:
    """Return the comparison of masks.

    Args:
        entrants: at least two.
        reference_by: how the reference is chosen.

    Raises:
        HeadmaskError: there are fewer than two, or the files of one cannot be read.
    """
    if len(entrants) < 2:
        raise HeadmaskError(f"there is nothing to compare; name at least two, got {len(entrants)}")
    reference = entrants[0] if reference_by == "named first" else _best_of_most(entrants)
    relations = {id(each): relate(reference, each) for each in entrants}
    ordered = sorted(entrants, key=lambda each: _place(each, relations[id(each)]))
    return _Compared(reference, ordered, [relations[id(each)] for each in ordered]).content(reference_by)


def _place(entrant: Entrant, relation: Relation) -> tuple[bool, float, int]:
    value = _confirm_value(entrant, relation)
    return value is None, -(value or 0.0), 0 if entrant.mask is None or value is None else len(entrant.mask)


def _confirm_value(entrant: Entrant, relation: Relation) -> float | None:
    """Return the value that a run is ranked by; None if it may not be compared."""
    return None if relation.scores["confirm"] == "no" else entrant.value("confirm")


def _best_of_most(entrants: Sequence[Entrant]) -> Entrant:
    """Return the best on confirm among the largest group of runs that may be compared with each other."""
    groups: dict[tuple[Any, ...], list[Entrant]] = {}
    for each in entrants:
        key = each.about.get("model"), each.objective, each.digests.get("confirm"), each.digests.get("test")
        groups.setdefault(key, []).append(each)
    most = max(groups.values(), key=len)
    return max(most, key=lambda each: (each.value("confirm") or 0.0, -len(each.mask or ())))


def letters(count: int) -> list[str]:
    """Return A, B, ..., Z, AA, AB, ..."""
    names: list[str] = []
    for number in range(1, count + 1):
        name = ""
        while number:
            number, digit = divmod(number - 1, 26)
            name = chr(ord("A") + digit) + name
        names.append(name)
    return names


class _Compared:
    """Runs in the order in which they are shown."""

    def __init__(self, reference: Entrant, ordered: Sequence[Entrant], relations: Sequence[Relation]) -> None:
        self.runs, self.relations = ordered, relations
        self.reference = next(place for place, each in enumerate(ordered) if each is reference)
        self.letters = letters(len(ordered))
        self.panels, self.members = self._panels()

    def _panels(self) -> tuple[dict[str, Panel], dict[str, list[int]]]:
        """Return panels of the splits on which several runs may be compared query by query, and the runs in them."""
        members = {
            split: [place for place, relation in enumerate(self.relations) if relation.scores[split] == "paired"]
            for split in SPLITS
        }
        members = {split: places for split, places in members.items() if len(places) > 1}
        reference = self.runs[self.reference]
        if not members or reference.queries is None or reference.objective is None:
            return {}, {}
        everyone = sorted({place for places in members.values() for place in places})
        ranked = {
            place: Ranked.read(run.queries, run.digests) for place in everyone if (run := self.runs[place]).queries
        }
        objective, queries = Objective.parse(reference.objective), read_queries(reference.queries)
        panels = {
            split: Panel(split, queries, objective, [ranked[place] for place in places])
            for split, places in members.items()
        }
        draw(panels)
        return panels, members

    def interval(self, split: str, before: int, after: int) -> tuple[float, float] | None:
        """Return the paired interval of two runs' difference; None if there is none."""
        return self._of_two(split, before, after, Panel.interval)

    def _of_two(self, split: str, before: int, after: int, statistic: Callable[[Panel, int, int], T]) -> T | None:
        """Return a paired statistic of two runs' difference; None if there is none."""
        places = self.members.get(split, [])
        if before == after or before not in places or after not in places:
            return None
        return statistic(self.panels[split], 1 + places.index(before), 1 + places.index(after))

    def content(self, reference_by: ReferenceBy) -> Comparison:
        """Return the comparison's content."""
        places, reference = range(len(self.runs)), self.letters[self.reference]
        own = {place: p_value for place in places if (p_value := self.runs[place].p_value) is not None}
        against = self._reference_p_values()
        together = {place: [each for each in own if share_test(self.runs[place], self.runs[each])] for place in own}
        adjusted = {place: _adjusted(own, together[place])[place] for place in own}, _adjusted(against, list(against))
        figures = [
            self._run(place).model_copy(
                update={
                    "p_adjusted": adjusted[0].get(place),
                    "reference_p_value": against.get(place),
                    "reference_p_adjusted": adjusted[1].get(place),
                }
            )
            for place in places
        ]
        return Comparison(
            objective=self.runs[self.reference].objective,
            reference=reference,
            reference_by=reference_by,
            recommendation=recommend(figures),
            runs=figures,
            jaccard=self._jaccard(),
            heads=self._heads(),
            settings=differing([run.settings for run in self.runs]),
            warnings=[*sentences(self.letters, self.relations, self.reference), *self._too_few()],
        )

    def _too_few(self) -> list[str]:
        """Return on which splits there are too few clusters for intervals, as text."""
        return [
            f"Differences on {split} are given without intervals and p-values, and no mask is called as good there: "
            f"{few}; at least {MIN_CLUSTERS} are needed."
            for split, panel in self.panels.items()
            if (few := panel.too_few)
        ]

    def _run(self, place: int) -> RunFigures:
        """Return the figures of one run, without its adjusted p-values."""
        run, result = self.runs[place], self.runs[place].result
        return RunFigures(
            letter=self.letters[place],
            name=run.name,
            kind=run.kind,
            rank=place + 1 if self._is_ranked(place) else None,
            model=run.model,
            tower=run.about.get("tower"),
            grid=str(run.grid),
            ablation=run.about.get("ablation"),
            objective=run.objective,
            heads=None if run.mask is None else list(map(str, run.mask.heads)),
            scales=None if run.scales is None else dict(run.scales),
            layer_counts=None if run.mask is None else list(run.mask.layer_counts),
            is_reliable=run.is_reliable,
            interval=run.interval,
            p_value=run.p_value,
            p_adjusted=None,
            reference_p_value=None,
            reference_p_adjusted=None,
            **self._against_best(place),
            search=self._figures(place, "search"),
            confirm=self._figures(place, "confirm"),
            test=self._figures(place, "test"),
            num_masks=result.num_masks if result else None,
            image_forwards=result.image_forwards if result else None,
            seconds=result.seconds if result else None,
            curve=best_so_far(run),
            lacks=run.lacks,
        )

    def _against_best(self, place: int) -> dict[str, Any]:
        """Return the comparison of a run with the best on confirm of those that improve reliably."""
        best = next((i for i, run in enumerate(self.runs) if run.is_reliable and self._is_ranked(i)), None)
        if best is None or not self.runs[place].is_reliable:
            return dict.fromkeys(("best_interval", "best_test_interval", "is_as_good"))
        return {
            "best_interval": self.interval("confirm", best, place),
            "best_test_interval": self.interval("test", best, place),
            "is_as_good": self._is_as_good(best, place),
        }

    def _is_as_good(self, best: int, place: int) -> bool | None:
        """Return whether a run is as good on confirm as the best one; None if the results of queries are missing."""
        if (error := self._of_two("confirm", best, place, Panel.standard_error)) is None:
            return None
        values = [_confirm_value(self.runs[i], self.relations[i]) or 0.0 for i in (best, place)]
        return as_good(values[1], values[0], error)

    def _is_ranked(self, place: int) -> bool:
        return _confirm_value(self.runs[place], self.relations[place]) is not None

    def _figures(self, place: int, split: str) -> SplitFigures | None:
        scores = self.runs[place].scores.get(split)
        if scores is None:
            return None
        difference = None
        if self.relations[place].scores.get(split, "no") != "no" and place != self.reference:
            before = self.runs[self.reference].scores[split].selected
            metrics = {name: value - before[name] for name, value in scores.selected.items() if name in before}
            difference = Difference(metrics=metrics, interval=self.interval(split, self.reference, place))
        return SplitFigures(baseline=dict(scores.baseline), selected=dict(scores.selected), difference=difference)

    def _reference_p_values(self) -> dict[int, float]:
        """Return the p-values of differences on test to the reference, by place."""
        places = self.members.get("test", [])
        others = [place for place in places if place != self.reference]
        if self.reference not in places:
            return {}
        before, after = 1 + places.index(self.reference), [1 + places.index(place) for place in others]
        if self.panels["test"].too_few:
            return {}
        return dict(zip(others, self.panels["test"].p_values(before, after), strict=True))

    def _jaccard(self) -> list[list[float | None]]:
        """Return shared heads over all heads, for every two masks."""
        sets = [
            frozenset(run.mask.heads) if run.mask is not None and relation.same_heads else None
            for run, relation in zip(self.runs, self.relations, strict=True)
        ]
        return [[None if one is None or other is None else jaccard(one, other) for other in sets] for one in sets]

    def _heads(self) -> dict[str, list[str]]:
        """Return the runs that ablate each head, for all heads that one of them ablates."""
        found: dict[Any, list[str]] = {}
        for letter, run, relation in zip(self.letters, self.runs, self.relations, strict=True):
            for head in run.mask.heads if run.mask is not None and relation.same_heads else ():
                found.setdefault(head, []).append(letter)
        return {str(head): names for head, names in sorted(found.items())}


def jaccard(one: frozenset[Any], other: frozenset[Any]) -> float:
    """Return the share of two sets' elements that are in both (Jaccard 1912); 1 for two empty sets."""
    return len(one & other) / len(one | other) if one | other else 1.0


def differing(settings: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the settings that differ wherever they are known, by run, without where results go."""
    keys = dict.fromkeys(key for each in settings for key in each if not key.startswith("output."))
    found = {}
    for key in keys:
        values = [each[key] for each in settings if key in each]
        if any(value != values[0] for value in values):
            found[key] = [each.get(key) for each in settings]
    return found


def _adjusted(p_values: Mapping[int, float], places: Sequence[int]) -> dict[int, float]:
    """Return the p-values at some places, adjusted for multiple tests, by place."""
    return dict(zip(places, holm([p_values[place] for place in places]), strict=True))
