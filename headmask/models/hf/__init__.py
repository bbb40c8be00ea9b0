"""Models of Hugging Face's transformers: read as the open_clip model that computes the same, and written again."""
