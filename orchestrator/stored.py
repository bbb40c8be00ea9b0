"""The configuration of a study that exists: from its run folder, or from the storage that holds it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headmask.errors import StudyError
from headmask.images import COMPOSITED
from orchestrator.config import SearchConfig, parse_config
from orchestrator.location import redacted
from orchestrator.store import BEGUN, has_begun, load_study, open_storage
from orchestrator.studies import begun_studies


def stored_config(study: str, storage: str | None, flags: Mapping[str, Any] | None = None) -> SearchConfig:
    """Return the configuration of a study that exists, with flags over it.

    Args:
        study: a run folder, or the name of a study in `storage`.
        storage: journal file or database URL; None when `study` is a run folder.
        flags: dotted keys such as `budget.masks`, if any; None values are left out.

    Raises:
        StudyError: there is no such study.
        ConfigError: a flag's value is not as it must be.
    """
    content = _stored_config(study, storage).model_dump()
    for key, value in (flags or {}).items():
        if value is not None:
            section, name = key.split(".")
            content[section][name] = value
    return parse_config(content, f"study {study}")


def _stored_config(study: str, storage: str | None) -> SearchConfig:
    if storage is None:
        config = _config_of_folder(Path(study))
        # The folder may have been moved since.
        return config.model_copy(update={"output": config.output.model_copy(update={"folder": study})})
    config = _config_of_study(storage, study)
    return config.model_copy(update={"output": config.output.model_copy(update={"storage": storage, "study": study})})


def _config_of_folder(folder: Path) -> SearchConfig:
    pointer, journal = folder / "config.json", folder / "study.journal"
    if pointer.is_file():
        return _parsed(json.loads(pointer.read_text(encoding="utf-8")), str(pointer))
    # A driver that is killed right after it began its study leaves the journal alone.
    for name in begun_studies(str(journal)):
        return _config_of_study(str(journal), name)
    if journal.is_file():
        raise StudyError(f"the study in {folder} has not begun: start it with `headmask search --out {folder}`")
    raise StudyError(f"there is no run folder at {folder}: name one, or a study with --storage URL")


def _parsed(content: Mapping[str, Any], source: str) -> SearchConfig:
    """Return a stored configuration; one that names no pixel rule is from before there was a choice."""
    search = content.get("search")
    if isinstance(search, Mapping) and "pixels" not in search:
        content = {**content, "search": {**search, "pixels": COMPOSITED}}
    return parse_config(content, source)


def _config_of_study(storage: str, name: str) -> SearchConfig:
    with open_storage(storage, must_exist=True) as opened:
        study = load_study(opened, storage, name)
        attrs, num_trials = study.user_attrs, len(study.get_trials(deepcopy=False))
    if BEGUN in attrs:
        return _parsed(attrs[BEGUN], f"study {name}")
    if has_begun(attrs, num_trials):
        raise StudyError(f"study {name!r} in {redacted(storage)} was not made by headmask")
    raise StudyError(
        f"study {name!r} in {redacted(storage)} has not begun: "
        f"start it with `headmask search --storage URL --study {name}`"
    )
