"""The attention of a block as its heads see it, whichever of open_clip's and timm's modules it is."""
