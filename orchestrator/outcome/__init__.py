"""What a search leaves: its result, tables and pictures."""
