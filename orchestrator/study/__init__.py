"""A study as it is stored: trials, journal, lock, and looks at the test split."""
