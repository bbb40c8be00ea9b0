"""How often a test split has been looked at: every look makes the next claim on it weaker."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

import optuna

from headmask.foreign import reason_of
from headmask.mask import HeadMask
from orchestrator.store import StudyStore, open_storage

ATTR = "test_looks"

_log = logging.getLogger(__name__)


def look_at_test(store: StudyStore, split_digests: Sequence[str], mask: HeadMask) -> None:
    """Record that a study looks at test splits with a mask; looking again with the same mask is the same look."""
    looks = store.attr(ATTR) or []
    new = [{"split": digest, "words": list(mask.words)} for digest in split_digests]
    store.set_attr(ATTR, [*looks, *(look for look in new if look not in looks)])
    store.flush()


def count_looks(location: str, store: StudyStore, split_digests: Sequence[str]) -> int:
    """Return how many times the most looked at of test splits was looked at, over all studies in a storage.

    Args:
        location: of the storage; where it is away, the looks of this study count alone.
        store: the study.
        split_digests: of the test splits.
    """
    try:
        with open_storage(location) as storage:
            summaries = optuna.get_all_study_summaries(storage, include_best_trial=False)
        others = [summary for summary in summaries if summary.study_name != store.name]
    # Every storage has its own exceptions for being away.
    except Exception as error:
        _log.warning("looks of other studies at the test split are not counted: %s", reason_of(error))
        others = []
    looks = [store.attr(ATTR) or [], *(study.user_attrs.get(ATTR, []) for study in others)]
    counts = Counter(look["split"] for each in looks for look in each)
    return max(counts[digest] for digest in split_digests)
