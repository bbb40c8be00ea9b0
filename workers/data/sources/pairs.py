"""Cola's pairs: two images and two captions, of which each fits one image and not the other."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from headmask.border.reading import read_json
from headmask.border.shown import shown
from headmask.errors import DataError
from workers.data.dataset import Kind
from workers.data.inside import readable
from workers.data.sources.base import BadRow, Entry, FolderSource, checked_captions, checked_name


def cola(images: Path, file: Path) -> FolderSource:
    """Return Cola's multi-object benchmark, `COLA_multiobjects_matching_benchmark.json` (Ray et al. 2023).

    The file is a list of [image 1, caption 1, image 2, caption 2], with URLs of the images, which are found in the
    folder by the last part of their URL.

    Raises:
        DataError: the file is of another layout; the single-object setting has several labels per image.
    """
    content = read_json(file, "pair file", DataError, any_text=True)
    if not isinstance(content, list) or not all(isinstance(item, list) for item in content):
        raise DataError(f"{shown(file)} must hold a list of [image, caption, image, caption]")
    if content and len(content[0]) != 4:
        raise DataError(
            f"{shown(file)} is Cola's single-object setting, with several labels per image, which is not supported; "
            "the multi-object file has [image, caption, image, caption]"
        )
    entries, bad_rows = [], []
    for number, item in enumerate(content, start=1):
        where = f"{shown(readable(file.name))} pair {number}"
        try:
            if len(item) != 4:
                raise ValueError("a pair is [image, caption, image, caption]")
            captions = [checked_captions([caption]) for caption in item[1::2]]
            names = [_name(address) for address in item[::2]]
        except ValueError as error:
            bad_rows.append(BadRow(where, str(error)))
            continue
        for name, texts in zip(names, captions, strict=True):
            entries.append(Entry(where, name, texts, pair=number))
    return FolderSource(images, [file], entries, bad_rows, Kind("matching"))


def _name(address: object) -> str:
    """Return the name of the file at the end of a URL."""
    return checked_name(PurePosixPath(urlsplit(checked_name(address)).path).name)
