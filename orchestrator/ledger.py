"""How often a test split has been looked at: every look makes the next claim on it weaker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import optuna

from headmask.mask import HeadMask
from orchestrator.store import StudyStore, open_storage

ATTR = "test_looks"


def look_at_test(store: StudyStore, split_digests: Sequence[str], mask: HeadMask) -> None:
    """Record that a study looks at test splits with a mask; looking again with the same mask is the same look."""
    looks = store.attr(ATTR) or []
    new = [{"split": digest, "words": list(mask.words)} for digest in split_digests]
    store.set_attr(ATTR, [*looks, *(look for look in new if look not in looks)])
    store.flush()


def count_looks(location: str, split_digests: Sequence[str]) -> int:
    """Return how many times the most looked at of test splits was looked at, over all studies in a storage."""
    storage, _ = open_storage(location)
    summaries = optuna.get_all_study_summaries(storage, include_best_trial=False)
    looks = Counter(look["split"] for summary in summaries for look in summary.user_attrs.get(ATTR, []))
    return max(looks[digest] for digest in split_digests)
