"""The errors that a caller can cause, each with one message: the rule, the value received, the way out.

The command line turns every `HeadmaskError` into that message and exit code 2, or 75 where trying again may help.
Programming mistakes stay ordinary Python exceptions.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `, did you mean X?` with the known name nearest to a wrong one; empty if none is near."""
    near = difflib.get_close_matches(name, known, n=1)
    return f", did you mean {near[0]}?" if near else ""


def one_of(names: Iterable[str]) -> str:
    """Return the names to choose from, quoted: `'a', 'b' or 'c'`."""
    *first, last = map(repr, names)
    return f"{', '.join(first)} or {last}"


class HeadmaskError(ValueError):
    """Base of all errors caused by input: a file, a flag, a model, a data set or a study."""


class GridError(HeadmaskError):
    """A mask and a tower, or two masks, have different grids."""


class MaskFileError(HeadmaskError):
    """A mask file is malformed, or was made for another model."""


class ModelError(HeadmaskError):
    """A model cannot be loaded, or its tower is not supported."""


class AblationError(HeadmaskError):
    """An ablation is undefined for this tower, or cannot be folded into its weights."""


class DataError(HeadmaskError):
    """A data set, caption file or image cannot be read as requested."""


class PixelsChangedError(DataError):
    """Decoded pixels have changed since they were written, so that scores may be wrong."""


class ConfigError(HeadmaskError):
    """The configuration of a search has mistakes; all of them are listed."""


class OutputError(HeadmaskError):
    """Something may not, or cannot, be written where it should go."""


class StudyError(HeadmaskError):
    """A study cannot be opened, resumed or written."""


class PoolError(HeadmaskError):
    """Masks cannot be scored as requested: an address without a cluster, replicas that fit nowhere."""


class ReplicasLostError(PoolError):
    """Replicas did not start in time, or were lost and did not come back; the input is not at fault."""


class PixelsGoneError(ReplicasLostError):
    """Decoded pixels are no longer where they were written; starting again decodes them anew."""


class DeviceMemoryError(HeadmaskError):
    """Not even one node of the scoring engine fits in a device's memory."""
