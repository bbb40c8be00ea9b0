"""The return value of `headmask.search`: the result with its run folder, displayed in notebooks."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from headmask.maskfile import MaskFile
from orchestrator.outcome.schema import SearchResult, read_result
from orchestrator.outcome.tables import as_html, sentences, split_rows
from orchestrator.study.runfolder import read_parquet

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class SearchRun(SearchResult):
    """A finished search: the content of `result.json`, with the run folder behind it.

    run = headmask.search(model="ViT-B-32", pretrained="openai", data="my.parquet", out="runs/first")
    print(run)              # the verdict in words; in a notebook, `run` alone shows a table, too
    run.plot()              # what each head does alone; quality against size
    run.mask                # the recommended mask, a MaskFile
    run.trials              # every scored mask, a pandas DataFrame
    run.refine()            # a factor per head instead of the mask
    """

    @classmethod
    def read(cls, folder: Path | str) -> Self:
        """Return the finished search of a run folder, wherever the folder is now.

        Raises:
            StudyError: there is none, its search has not finished, or its result is damaged.
        """
        path = Path(folder)
        return read_result(path, cls).model_copy(update={"mask_file": str(path / "mask.json")})

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.mask_file).parent

    @cached_property
    def mask(self) -> MaskFile:
        """The recommended mask: the selected one, or the empty one if there is no reliable improvement."""
        return MaskFile.read(self.mask_file)

    @cached_property
    def trials(self) -> pd.DataFrame:
        """Every scored mask, one row each: its text and words, value, metrics, strategy, seconds.

        Raises:
            DataError: `trials.parquet` is missing or damaged.
        """
        frame: pd.DataFrame = read_parquet(self.folder / "trials.parquet").to_pandas()
        return frame

    def refine(self, **options: Any) -> Any:
        """Return the refinement of the mask that the search selected; see `headmask.refine`."""
        import headmask

        return headmask.refine(self.folder, **options)

    def plot(self) -> Figure:
        """Return a figure: what each head does alone, selected heads marked; and quality against size."""
        from orchestrator.outcome.figures import draw_run

        return draw_run(self, self.mask.head_grid, self.trials)

    def __eq__(self, other: object) -> bool:
        """Whether the contents of `result.json` are equal; a `SearchResult` may be compared, too."""
        return isinstance(other, SearchResult) and self.model_dump() == other.model_dump()

    def __repr__(self) -> str:
        return f"SearchRun({self.verdict!r}, {self.folder})\n{self}"

    def __str__(self) -> str:
        return "\n".join(sentences(self))

    def _repr_html_(self) -> str:
        return as_html(self.objective, sentences(self), split_rows(self))
