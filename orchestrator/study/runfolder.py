"""Reading the files of a run folder: checked, with one message that names the file and the way out."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from headmask.border.foreign import reason_of
from headmask.border.reading import check_file, read_json
from headmask.border.shown import shown
from headmask.errors import DataError, HeadmaskError, StudyError
from orchestrator.settings.config import SearchConfig, parse_stored

CONFIG = "config.json"


def read_config_file(folder: Path) -> SearchConfig:
    """Return the configuration in a run folder.

    Raises:
        HeadmaskError: it cannot be read.
    """
    path = folder / CONFIG
    content = read_json(path, "configuration of a search", StudyError)
    if not isinstance(content, dict):
        raise StudyError(f"{shown(path)} is not a configuration of a search: it must be an object with sections")
    return parse_stored(content, shown(path))


def read_parquet(path: Path, columns: list[str] | None = None, as_codes: tuple[str, ...] = ()) -> pa.Table:
    """Return a table that a search wrote, after checking its checksums.

    Raises:
        DataError: the file is missing, not Parquet, or damaged.
    """
    check_file(path, path.name, DataError)
    try:
        with pq.ParquetFile(path, read_dictionary=list(as_codes), page_checksum_verification=True) as file:
            if missing := [name for name in columns or () if name not in file.schema_arrow.names]:
                raise DataError(f"{shown(path)} is not a {path.name} of a search: it lacks {', '.join(missing)}")
            return file.read(columns)
    # Whatever a reader of Parquet stumbles over in a file that is damaged.
    except (OSError, pa.ArrowException, ValueError, KeyError, OverflowError, MemoryError) as error:
        if isinstance(error, HeadmaskError):
            raise
        raise DataError(f"{shown(path)} cannot be read as {path.name}: {reason_of(error)}") from None
