"""A study as it is stored, read without a driver and without disturbing one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headmask.border.shown import shown
from headmask.errors import StudyError
from orchestrator.settings.commandline import command_line
from orchestrator.settings.config import SearchConfig, parse_stored
from orchestrator.settings.location import redacted
from orchestrator.study.integrity import checked_attrs
from orchestrator.study.records import TrialRecord, read_records
from orchestrator.study.storage import load_study, open_storage

BEGUN = "config"
"""The attribute that a new study gets last: without it, and without trials, a study has not begun."""
_NEEDED = frozenset(("model", "grid", "objective", "guide", "task"))
"""Parts of a fingerprint that are read without the model and the data."""


def has_begun(attrs: Mapping[str, Any], num_trials: int) -> bool:
    """Return whether a study is more than the remains of a driver that was killed while it created one."""
    return BEGUN in attrs or num_trials > 0


@dataclass(frozen=True)
class StoredStudy:
    """A study as written in a storage."""

    attrs: dict[str, Any]
    config: SearchConfig
    records: list[TrialRecord]
    """Records in order of proposal."""


def read_stored(location: str, name: str) -> StoredStudy:
    """Return the content of a storage for a study that headmask made, without disturbing a driver.

    Raises:
        StudyError: there is no such study, it was not made by headmask, has not begun, or is damaged.
    """
    with open_storage(location, must_exist=True) as storage:
        study = load_study(storage, location, name)
        attrs = checked_attrs(study.user_attrs, f"study {name!r} in {shown(redacted(location))}")
        trials = study.get_trials(deepcopy=False)
    if not isinstance(attrs.get(BEGUN), dict) or not isinstance(attrs.get("fingerprint"), dict):
        raise not_ours(location, name, attrs, len(trials))
    if missing := sorted(_NEEDED - attrs["fingerprint"].keys()):
        raise StudyError(f"study {name!r} is damaged: its fingerprint has no {', '.join(missing)}")
    return StoredStudy(attrs, parse_stored(attrs[BEGUN], f"study {name}"), read_records(attrs, trials))


def not_ours(location: str, name: str, attrs: Mapping[str, Any], num_trials: int) -> StudyError:
    """Return the error for a study that can be neither read nor continued."""
    where = f"study {name!r} in {shown(redacted(location))}"
    if has_begun(attrs, num_trials):
        return StudyError(f"{where} was not made by headmask, or is damaged")
    command = command_line("headmask", "search", "--storage", redacted(location), "--study", name)
    return StudyError(f"{where} has not begun: start it with `{command}`")
