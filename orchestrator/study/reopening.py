"""The configuration of an existing study: from its run folder, or from the storage that holds it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headmask.border.reading import is_file, is_there
from headmask.border.shown import shown
from headmask.errors import StudyError
from orchestrator.settings.commandline import command_line
from orchestrator.settings.config import SearchConfig, parse_config, parse_stored
from orchestrator.settings.location import redacted
from orchestrator.study.catalogue import begun_studies
from orchestrator.study.integrity import checked_attrs
from orchestrator.study.runfolder import CONFIG, read_config_file
from orchestrator.study.storage import load_study, open_storage
from orchestrator.study.stored import BEGUN, not_ours


def stored_config(study: str, storage: str | None, flags: Mapping[str, Any] | None = None) -> SearchConfig:
    """Return the configuration of an existing study, with flags over it.

    Args:
        study: a run folder, or the name of a study in `storage`.
        storage: journal file or database URL; None when `study` is a run folder.
        flags: dotted keys such as `budget.masks`, if any; None values are left out.

    Raises:
        StudyError: there is no such study, or it is damaged.
        ConfigError: a flag's value is not valid.
    """
    if not study:
        raise StudyError("name a run folder, or a study with --storage URL; got an empty text")
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
    pointer, journal = folder / CONFIG, folder / "study.journal"
    if is_there(pointer):
        return read_config_file(folder)
    # A driver that is killed right after it began its study leaves the journal alone.
    for name in begun_studies(str(journal)):
        return _config_of_study(str(journal), name)
    if is_file(journal):
        command = command_line("headmask", "search", "--out", folder)
        raise StudyError(f"the study in {shown(folder)} has not begun: start it with `{command}`")
    raise StudyError(f"there is no run folder at {shown(folder)}: name one, or a study with --storage URL")


def _config_of_study(storage: str, name: str) -> SearchConfig:
    with open_storage(storage, must_exist=True) as opened:
        study = load_study(opened, storage, name)
        attrs = checked_attrs(study.user_attrs, f"study {name!r} in {shown(redacted(storage))}")
        num_trials = len(study.get_trials(deepcopy=False))
    if not isinstance(attrs.get(BEGUN), dict):
        raise not_ours(storage, name, attrs, num_trials)
    return parse_stored(attrs[BEGUN], f"study {name}")
