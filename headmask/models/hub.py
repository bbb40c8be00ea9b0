"""Files of repositories of the Hugging Face Hub."""

from __future__ import annotations

import os
from pathlib import Path

from open_clip.pretrained import download_pretrained_from_hf

from headmask.border.foreign import reason_of
from headmask.border.home import hub_cache
from headmask.border.schemes import HUB
from headmask.border.shown import shown
from headmask.errors import ModelError


def download(name: str, filename: str | None) -> Path:
    """Return a file of a repository, downloaded or from the cache; by default its weights."""
    repository = name.removeprefix(HUB)
    what = filename or "weights"
    try:
        return Path(download_pretrained_from_hf(repository, filename=filename, cache_dir=hub_cache()))
    except ModelError:
        raise
    # The hub's library has dozens of kinds, of which open_clip makes one.
    except Exception as error:
        raise ModelError(
            f"cannot get the {what} of {shown(name)} ({shown(reason_of(error, 240))}). {_advice(error)}"
        ) from None


def _advice(error: BaseException) -> str:
    kinds = set()
    inner: BaseException | None = error
    while inner is not None:
        kinds |= {kind.__name__ for kind in type(inner).__mro__}
        inner = inner.__cause__ or inner.__context__
    if "HFValidationError" in kinds:
        return "A repository is named hf-hub:ORG/REPO"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return "HF_HUB_OFFLINE is set, and it is not in the cache: download it before, or unset it"
    if "GatedRepoError" in kinds:
        return "Ask for access on its page, and log in with `hf auth login`"
    if "RepositoryNotFoundError" in kinds:
        return "Check its name; a private one needs `hf auth login`"
    if "EntryNotFoundError" in kinds and "LocalEntryNotFoundError" not in kinds:
        return "The repository does not hold a model of open_clip or transformers"
    return "Check the name and the connection, or download the repository and pass local-dir:FOLDER"
