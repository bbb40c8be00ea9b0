"""The search from Python; `headmask.search` forwards here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator import runner
from orchestrator.config import flags_of, read_config
from orchestrator.progress import Quiet
from orchestrator.result import SearchResult


def search(config: Path | str | None = None, **options: Any) -> SearchResult:
    """Return what a search found; it does what `headmask search` does, without printing.

        result = headmask.search(model="ViT-B-32", pretrained="openai", data="my.parquet", out="runs/first")
        mask = headmask.MaskFile.read(result.mask_file)

    Args:
        config: TOML file; options override it.
        options: settings by the names of the command line's flags, such as `masks=1000` or `max_heads=8`.

    Raises:
        HeadmaskError: bad input, or the study exists.
        Interrupted: stopped by a signal; `headmask resume` goes on.
    """
    settings = read_config(None if config is None else Path(config), flags_of(options))
    return runner.start(settings, Quiet()).result
