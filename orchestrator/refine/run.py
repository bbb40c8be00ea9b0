"""The return value of `headmask.refine`: the result with its folder, displayed in notebooks."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Self

from headmask.scalesfile import ScalesFile
from orchestrator.outcome.tables import as_html
from orchestrator.refine.content import RefineResult, read_refinement
from orchestrator.refine.terminal import sentences, split_rows


class RefineRun(RefineResult):
    """A finished refinement: the content of `refine.json`, with the folder behind it.

    run = headmask.refine("runs/first")
    print(run)              # the verdict in words; in a notebook, `run` alone shows a table, too
    run.scales              # the recommended scales, a ScalesFile
    """

    @classmethod
    def read(cls, folder: Path | str) -> Self:
        """Return the finished refinement of a folder, wherever the folder is now.

        Raises:
            StudyError: there is none, or its result is damaged.
        """
        path = Path(folder)
        found = read_refinement(path).model_dump()
        return cls.model_validate({**found, "scales_file": str(path / "scales.json")})

    @property
    def folder(self) -> Path:
        """The folder of the results."""
        return Path(self.scales_file).parent

    @cached_property
    def scales(self) -> ScalesFile:
        """The recommended scales: the selected ones, or none if there is no reliable improvement."""
        return ScalesFile.read(self.scales_file)

    def __repr__(self) -> str:
        return f"RefineRun({self.verdict!r}, {self.folder})\n{self}"

    def __str__(self) -> str:
        return "\n".join(sentences(self))

    def _repr_html_(self) -> str:
        return as_html(self.objective, sentences(self), split_rows(self))
