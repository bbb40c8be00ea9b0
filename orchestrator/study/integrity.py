"""Checking that a study is what was written: checksums of trials, of attributes and of lines of the journal.

Storages return what they have, even if a disk, a copy or an editor has changed it. Studies from before checksums
existed have none; they are trusted as far as they are consistent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from headmask.errors import StudyError

SUMS = "checksums"
"""The attribute with the checksums of the others: for each, the allowed values."""


def checksum(content: Any) -> str:
    """Return 16 hexadecimal digits of a JSON value's SHA-256, by its numbers as Python writes them."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def with_sums(attrs: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Return what to write, in order, to give an attribute a value: first its checksum, then the value.

    A driver may be killed between the two, so the previous value's checksum remains valid.
    """
    good = [checksum(attrs[key])] if key in attrs else []
    return {SUMS: {**attrs.get(SUMS, {}), key: [*good, checksum(value)]}, key: value}


def checked_attrs(attrs: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the attributes of a study, after checking that they are what was written.

    Args:
        attrs: attributes of the study.
        where: name of the study in messages.

    Raises:
        StudyError: one is not what was written.
    """
    sums = attrs.get(SUMS, {})
    if not isinstance(sums, dict):
        raise StudyError(f"{where} is damaged: its checksums are none. Bring the storage back from a copy")
    changed = [key for key in sorted(attrs.keys() & sums.keys()) if checksum(attrs[key]) not in sums[key]]
    if changed:
        raise StudyError(
            f"{where} is damaged: {', '.join(changed)} not as headmask wrote it. Bring the storage back "
            "from a copy, or start another study"
        )
    return dict(attrs)
