"""The outputs of a search: its result, tables and pictures."""
