"""Where data comes from: one source for each layout that users have on disk."""

from workers.data.sources.base import BadRow, FolderSource, Item, Source

__all__ = ["BadRow", "FolderSource", "Item", "Source"]
