"""From files to pixels: which images are read, how they become RGB, and how a model expects them."""
