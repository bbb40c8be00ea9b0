"""The attention of a block as its heads see it, for all attention modules of open_clip and timm."""
