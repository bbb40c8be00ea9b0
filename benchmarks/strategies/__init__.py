"""`python -m benchmarks.strategies`: our strategies against others, at equal numbers of distinct masks."""
