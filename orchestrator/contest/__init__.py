"""`headmask bench strategies`: our strategies against others, at equal numbers of distinct masks."""
