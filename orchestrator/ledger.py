"""How often a test split has been looked at: every look makes the next claim on it weaker."""

from __future__ import annotations

import optuna

from headmask.mask import HeadMask
from orchestrator.store import StudyStore, open_storage

ATTR = "test_looks"


def look_at_test(store: StudyStore, split_digest: str, mask: HeadMask) -> None:
    """Record that a study looks at a test split with a mask; looking again with the same mask is the same look."""
    look = {"split": split_digest, "words": list(mask.words)}
    looks = store.attr(ATTR) or []
    if look not in looks:
        store.set_attr(ATTR, [*looks, look])
    store.flush()


def count_looks(location: str, split_digest: str) -> int:
    """Return how many times the test split was looked at, over all studies in a storage."""
    storage, _ = open_storage(location)
    summaries = optuna.get_all_study_summaries(storage, include_best_trial=False)
    return sum(look["split"] == split_digest for summary in summaries for look in summary.user_attrs.get(ATTR, []))
