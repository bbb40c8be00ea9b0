"""The files of a run folder as they are read again: checked, or one message that names the file and the way out."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from headmask.errors import DataError, HeadmaskError, StudyError
from headmask.foreign import reason_of
from headmask.reading import check_file, is_folder, is_there, read_json, read_model
from headmask.shown import shown
from orchestrator.commandline import resume_command
from orchestrator.config import SearchConfig, parse_stored
from orchestrator.result import SearchResult

RESULT, CONFIG = "result.json", "config.json"

R = TypeVar("R", bound=SearchResult)


def read_result(folder: Path, kind: type[R]) -> R:
    """Return what a finished search left in its run folder.

    Args:
        folder: the run folder.
        kind: `SearchResult`, or what derives from it.

    Raises:
        StudyError: there is none, or it is not what was written.
    """
    path = folder / RESULT
    if not is_folder(folder):
        raise StudyError(f"there is no run folder at {shown(folder)}")
    if not is_there(path):
        raise StudyError(
            f"{shown(folder)} has no {RESULT}: its search has not ended; `{resume_command(folder)}` ends it"
            if is_there(folder / CONFIG)
            else f"{shown(folder)} is no run folder: it has no {RESULT}, and no {CONFIG} of a search that goes on"
        )
    try:
        result = read_model(path, kind, "result of a search", StudyError)
    except StudyError as error:
        raise StudyError(f"{error}\n{_written_again(folder)}") from None
    if not result.is_as_written:
        raise StudyError(f"{shown(path)} is not what headmask wrote. {_written_again(folder)}")
    return result


def _written_again(folder: Path) -> str:
    return f"Bring the file back from a copy, or write it again from the study with `{resume_command(folder)}`"


def read_config_file(folder: Path) -> SearchConfig:
    """Return the configuration in a run folder.

    Raises:
        HeadmaskError: it cannot be read.
    """
    path = folder / CONFIG
    content = read_json(path, "configuration of a search", StudyError)
    if not isinstance(content, dict):
        raise StudyError(f"{shown(path)} is no configuration of a search: it must be an object with sections")
    return parse_stored(content, shown(path))


def read_parquet(path: Path, columns: list[str] | None = None, as_codes: tuple[str, ...] = ()) -> pa.Table:
    """Return a table that a search wrote, with its checksums compared.

    Raises:
        DataError: the file is missing, is none, or is damaged.
    """
    check_file(path, path.name, DataError)
    try:
        with pq.ParquetFile(path, read_dictionary=list(as_codes), page_checksum_verification=True) as file:
            if missing := [name for name in columns or () if name not in file.schema_arrow.names]:
                raise DataError(f"{shown(path)} is no {path.name} of a search: it lacks {', '.join(missing)}")
            return file.read(columns)
    # Whatever a reader of Parquet stumbles over in a file that is damaged.
    except (OSError, pa.ArrowException, ValueError, KeyError, OverflowError, MemoryError) as error:
        if isinstance(error, HeadmaskError):
            raise
        raise DataError(f"{shown(path)} cannot be read as {path.name}: {reason_of(error)}") from None
