"""All tasks by name, and what they have between them. A task is added here, and nowhere else outside its own module."""

from __future__ import annotations

from collections.abc import Mapping

from headmask.errors import one_of
from workers.tasks.base import QueryKind, Targets
from workers.tasks.classification import ClassificationTargets
from workers.tasks.matching import MatchingTargets
from workers.tasks.retrieval import RetrievalTargets
from workers.tasks.similarity import SimilarityTargets

TASKS: Mapping[str, type[Targets]] = {
    each.task: each for each in (RetrievalTargets, ClassificationTargets, MatchingTargets, SimilarityTargets)
}
METRICS = tuple(dict.fromkeys(name for task in TASKS.values() for name in task.metrics))
GRADED_METRICS = frozenset(name for task in TASKS.values() for name in task.graded_metrics)
KINDS: Mapping[str, QueryKind] = {name: kind for task in TASKS.values() for name, kind in task.kinds.items()}
"""Every kind of query; their names tell tasks apart."""


def check_task(name: str) -> str:
    """Return the name of a task.

    Raises:
        ValueError: there is no such task.
    """
    if name not in TASKS:
        raise ValueError(f"must be {one_of(TASKS)}")
    return name


def tasks_with(column: str) -> str:
    """Return in words the tasks that may read a column."""
    return " or ".join(name for name, task in TASKS.items() if column in (*task.needs, *task.may_have))
