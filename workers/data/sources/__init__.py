"""Where data comes from: one source per layout that people have on disk."""

from workers.data.sources.base import BadRow, FolderSource, Item, Source

__all__ = ["BadRow", "FolderSource", "Item", "Source"]
