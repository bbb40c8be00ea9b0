"""Whether a search's claims can be trusted, measured: see docs/validity.md."""
