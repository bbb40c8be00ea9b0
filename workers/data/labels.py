"""Classes: the distinct labels of a data set, in an order that is the same for every source."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

from headmask.border.reading import check_text
from headmask.border.shown import counted, shown
from headmask.errors import DataError
from workers.data.prompts import read_names

_MISSING = frozenset(("nan", "na", "n/a", "<na>", "null", "none"))
"""What tables contain for a missing label, in lower case."""


@dataclass(frozen=True)
class Classes:
    """Labels of the data and their names for prompts, in order of class number."""

    labels: tuple[str, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, found: Iterable[str], where: str) -> Self:
        """Return the classes of labels: those that occur, and no others.

        Labels that are all numbers are ordered by number, others by text as torchvision orders folders.

        Args:
            found: labels, as `label_text` returns them.
            where: name of the data in errors.

        Raises:
            DataError: a number is written in two ways, or there is a missing label among numbers.
        """
        labels = sorted(set(found))
        others = [label for label in labels if not _is_number(label)]
        if len(others) == 1 < len(labels) and others[0].casefold() in _MISSING:
            raise DataError(
                f"{where}: label '{shown(others[0])}' is among numbers, as where a label is missing; leave out such "
                "images, or give the class another label"
            )
        if not others:
            labels.sort(key=_by_number)
            for before, after in pairwise(labels):
                if _by_number(before) == _by_number(after):
                    raise DataError(f"{where}: labels {before} and {after} are one number; write it in one way")
        return cls(tuple(labels), tuple(labels))

    @classmethod
    def numbered(cls, names: Iterable[str]) -> Self:
        """Return the classes of a list of names, whose labels are indices into it."""
        listed = tuple(names)
        return cls(tuple(map(str, range(len(listed)))), listed)

    @cached_property
    def place(self) -> Mapping[str, int]:
        """The number of every class by its label."""
        return {label: number for number, label in enumerate(self.labels)}

    def named(self, file: Path) -> Classes:
        """Return the classes with names from a file.

        A list has a name for every class, in their order; or, if labels are integers from 0 on with some absent, a name
        for every number. A JSON object maps labels to names.

        Raises:
            DataError: the file cannot be read, or its names do not fit; or a list may be of another order than the
                classes, because it names a class at another one's place, or because numbers in labels can be ordered
                in two ways (`c2` and `c10`).
        """
        content = read_names(file)
        if isinstance(content, Mapping):
            return self._renamed(content, file)
        if len(content) == len(self.labels):
            self._check_order(content, shown(file))
            return Classes(self.labels, content)
        if not self._are_places_in(content):
            raise DataError(f"{shown(file)} has {len(content)} class names, the data has {self._described()}")
        numbers = {int(label): label for label in self.labels}
        return Classes(tuple(numbers.get(place, str(place)) for place in range(len(content))), content)

    def _are_places_in(self, names: tuple[str, ...]) -> bool:
        """Return whether labels can only be indices into a longer list: class 0 exists, and none is beyond the end.

        Without a class 0, counting may begin at 1, and names would be shifted by one.
        """
        if len(names) < len(self.labels) or not all(re.fullmatch("[0-9]+", label) for label in self.labels):
            return False
        return _by_number(self.labels[0])[1] == "" and _by_number(self.labels[-1]) < _by_number(str(len(names)))

    def _check_order(self, names: tuple[str, ...], file: str) -> None:
        """Check that a list is in the order of the classes, as far as labels and names show."""
        if all(map(_is_number, self.labels)):
            return
        own = {_loose(label): label for label in self.labels}
        same = [label for label, name in zip(self.labels, names, strict=True) if _loose(label) == _loose(name)]
        for label, name in zip(self.labels, names, strict=True):
            if label not in same and _loose(name) in own:
                raise DataError(
                    f"{file} has the name '{shown(name)}' in the place of class '{shown(label)}', though there is a "
                    f"class '{shown(own[_loose(name)])}': is it in another order? A list is taken in the order of "
                    f"labels, which `headmask data show` prints. {self._advice()}"
                )
        by_number = sorted(self.labels, key=_natural)
        moved = [label for label, other in zip(self.labels, by_number, strict=True) if label != other]
        if moved and list(self.labels) == sorted(self.labels) and not set(moved) & set(same):
            raise DataError(
                f"{file} is a list, and labels can be ordered in two ways: as text, with '{shown(moved[0])}' at place "
                f"{self.labels.index(moved[0]) + 1}, or by the numbers in them, with it at place "
                f"{by_number.index(moved[0]) + 1}. {self._advice()}"
            )

    def _advice(self) -> str:
        example = json.dumps({self.labels[0]: "cat"}, ensure_ascii=False)
        return f"Name classes in a JSON object by label, such as {shown(example)}"

    def _described(self) -> str:
        count = len(self.labels)
        text = f"{count} class{'es' * (count != 1)}"
        if count and all(map(_is_number, self.labels)):
            text += f", numbered {self.labels[0]} to {self.labels[-1]}. {self._advice()}"
        return text

    def _renamed(self, by_label: Mapping[str, str], file: Path) -> Classes:
        wanted = {unicodedata.normalize("NFC", key).strip(): name for key, name in by_label.items()}
        # Labels first: a label may be called like another one's class.
        by = self.labels if set(self.labels) <= wanted.keys() or not set(self.names) <= wanted.keys() else self.names
        missing = [key for key in by if key not in wanted]
        if missing:
            others = f", nor for {counted(len(missing) - 1, 'other')}" if len(missing) > 1 else ""
            raise DataError(f"{shown(file)} has no name for class '{shown(missing[0])}'{others}")
        return Classes(self.labels, tuple(wanted[key] for key in by))


def label_text(value: Any) -> str:
    """Return a label as text: integers in digits, text in Unicode's composed form without surrounding blanks.

    Raises:
        ValueError: it is missing, several, a negative number, or neither text nor a whole number.
    """
    if value is None or value == "":
        raise ValueError("the label is missing")
    if isinstance(value, list | tuple):
        raise ValueError("several labels for one image; multi-label data is not supported")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"a label is a text or a whole number; got {shown(repr(value)[:60])}")
    text = unicodedata.normalize("NFC", str(value)).strip()
    if why := check_text(text):
        raise ValueError(f"the label cannot be used: {why}")
    if not text:
        raise ValueError("the label is missing")
    if re.fullmatch(r"-[0-9]+(\.0+)?", text):
        raise ValueError(f"label {text} is negative, which usually marks images without a label; leave them out")
    # What pandas writes once a column has a gap.
    whole = re.fullmatch(r"([0-9]+)\.0+", text)
    return whole[1] if whole else text


def _is_number(label: str) -> bool:
    return re.fullmatch(r"[0-9]+(\.[0-9]+)?", label) is not None


def _loose(name: str) -> str:
    """Return a key that is the same for a label and its name: `fire_truck` and `Fire truck`."""
    return " ".join(re.findall(r"\w+", name.replace("_", " ").casefold()))


def _natural(label: str) -> list[tuple[int, str, str] | str]:
    """Return a key that orders labels by the numbers in them: texts and numbers in turn."""
    return [_by_number(part) if part.isdecimal() else part for part in re.split(r"(\d+)", label)]


def _by_number(label: str) -> tuple[int, str, str]:
    """Return a key that orders numbers of any length."""
    whole, _, rest = label.partition(".")
    whole = whole.lstrip("0")
    return len(whole), whole, rest.rstrip("0")
