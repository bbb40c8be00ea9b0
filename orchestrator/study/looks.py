"""How often a test split has been looked at: every look weakens the next claim on it.

A look is a mask, or scales, of a model on a test split; the same again is the same look. Looks are kept by the split's
digest, in a file beside the run folders, in another one in the user's cache, and in the storage of a study, so that
searches with run folders of their own count each other's. The files are lines of JSON and only grow; a line that is
damaged is left out.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
from pydantic import BaseModel, ConfigDict, ValidationError

from headmask.border.foreign import reason_of
from headmask.border.home import cache_folder
from headmask.border.reading import parse_json, read_bytes
from headmask.errors import HeadmaskError, StudyError
from headmask.mask import HeadMask
from headmask.scales import HeadScales, scales_of
from orchestrator.study.storage import open_storage
from orchestrator.study.store import StudyStore

ATTR = "test_looks"
FILE = "test-looks.jsonl"
MAX_LINE = 100_000
"""Maximum length of a line in bytes; headmask writes no longer ones."""

_log = logging.getLogger(__name__)


class Look(BaseModel):
    """One mask, or scales, of one model on one test split."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    split: str
    """Digest of the split."""
    words: tuple[int, ...]
    """Words of the mask; of scales, those of the heads that they ablate."""
    scales: str = ""
    """Scales that are not those of a mask, as text."""
    model: str = ""
    """Digest of the model's weights."""
    tower: str = "image"
    ablation: str = "zero"


def ledgers(folder: Path | None) -> list[Path]:
    """Return the files with looks: beside a run folder, and in the user's cache."""
    found = [] if folder is None else [folder.resolve().parent / FILE]
    with contextlib.suppress(RuntimeError, HeadmaskError):  # A user without a home.
        found.append(cache_folder() / FILE)
    return found


def run_folder_of(mask: Path | None) -> Path | None:
    """Return the run folder that contains a mask file; None for one elsewhere."""
    return mask.parent if mask is not None and (mask.parent / "config.json").is_file() else None


def looks_at(
    split_digests: Sequence[str],
    change: HeadMask | HeadScales,
    *,
    model: str,
    tower: str = "image",
    ablation: str = "zero",
) -> list[Look]:
    """Return the looks at test splits that scoring a mask or scales takes."""
    scales = scales_of(change)
    words, text = scales.ablated.words, "" if scales.is_mask else str(scales)
    return [
        Look(split=digest, words=words, scales=text, model=model, tower=tower, ablation=ablation)
        for digest in split_digests
    ]


def keep_looks(looks: Iterable[Look], folder: Path | None) -> None:
    """Add new looks to the files. A file that cannot be written causes a warning and is left unchanged."""
    for path in ledgers(folder):
        try:
            _append(path, looks)
        except (OSError, HeadmaskError) as error:
            _log.warning("the look at the test split is not kept in %s: %s", path, reason_of(error))


def _append(path: Path, looks: Iterable[Look]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    known = _read(path) if path.exists() else set()
    time = datetime.now(UTC).isoformat(timespec="seconds")
    lines = [json.dumps({**look.model_dump(), "time": time}) + "\n" for look in looks if look not in known]
    if not lines:
        return
    with path.open("ab+") as file:
        # On a file system without locks, one write of a few lines is whole all the same.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        size = file.seek(0, os.SEEK_END)
        if size:
            # A writer that was killed leaves half a line.
            file.seek(size - 1)
            lines[:0] = [] if file.read(1) == b"\n" else ["\n"]
        file.write("".join(lines).encode())


def _read(path: Path) -> set[Look]:
    """Return the looks of a file; anything else in it is left out."""
    found = set()
    for line in read_bytes(path, "ledger of test looks", StudyError).split(b"\n"):
        if 0 < len(line) <= MAX_LINE:
            try:
                found.add(Look.model_validate(parse_json(line, "a line")))
            except (HeadmaskError, ValidationError):
                continue
    return found


def kept_looks(folder: Path | None) -> set[Look]:
    """Return the looks in all files."""
    found: set[Look] = set()
    for path in ledgers(folder):
        try:
            found |= _read(path) if path.exists() else set()
        except (OSError, HeadmaskError) as error:
            _log.warning("looks at test splits in %s are not counted: %s", path, reason_of(error))
    return found


def look_at_test(store: StudyStore, looks: Sequence[Look], folder: Path) -> None:
    """Record that a study looks at test splits, before it does."""
    known = looks_of_study({ATTR: store.attr(ATTR), "fingerprint": store.attr("fingerprint")})
    new = [look.model_dump(mode="json") for look in looks if look not in known]
    store.set_attr(ATTR, [*(store.attr(ATTR) or []), *new])
    store.flush()
    keep_looks(looks, folder)


def looks_of_study(attrs: Mapping[str, Any]) -> set[Look]:
    """Return the looks of a study, from its attributes. Older ones name their model by the fingerprint."""
    about, listed = attrs.get("fingerprint"), attrs.get(ATTR)
    about = about if isinstance(about, dict) else {}
    usual = {key: about[key] for key in ("model", "tower", "ablation") if isinstance(about.get(key), str)}
    found = set()
    for each in listed if isinstance(listed, list) else []:
        try:
            found.add(Look.model_validate({**usual, **each}))
        except (TypeError, ValidationError):
            continue
    return found


def count_looks(location: str, store: StudyStore, split_digests: Sequence[str], folder: Path) -> int:
    """Return the number of looks at the most looked at of some test splits, as far as it is known here.

    Args:
        location: location of the storage; if it is away, only the looks of this study and those in files count.
        store: the study.
        split_digests: of the test splits.
        folder: of the run.
    """
    others = _looks_of_others(location, store.name)
    own = looks_of_study({ATTR: store.attr(ATTR), "fingerprint": store.attr("fingerprint")})
    return most_looks(set().union(own, others, kept_looks(folder)), split_digests)


def count_looks_without_study(location: str | None, split_digests: Sequence[str], folder: Path) -> int:
    """Return what `count_looks` does for what is no study; a storage is looked at if there is one."""
    others = set() if location is None else _looks_of_others(location)
    return most_looks(others | kept_looks(folder), split_digests)


def _looks_of_others(location: str, name: str | None = None) -> set[Look]:
    """Return the looks of all studies of a storage but one."""
    try:
        with open_storage(location, must_exist=True) as storage:
            summaries = optuna.get_all_study_summaries(storage, include_best_trial=False)
        others = [summary.user_attrs for summary in summaries if summary.study_name != name]
    # Every storage has its own exceptions for being away.
    except Exception as error:
        _log.warning("looks of other studies at the test split are not counted: %s", reason_of(error))
        others = []
    return set().union(*map(looks_of_study, others))


def most_looks(looks: Iterable[Look], split_digests: Sequence[str]) -> int:
    """Return the number of looks at the most looked at of some splits."""
    found = list(looks)
    return max((sum(look.split == digest for look in found) for digest in split_digests), default=0)


def looked(count: int) -> str:
    """Return a sentence on how often a test split has been looked at."""
    times = "once" if count == 1 else f"{count:,} times"
    return f"This test split has been looked at {times}; every look makes the next claim weaker."
