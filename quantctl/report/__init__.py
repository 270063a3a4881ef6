"""Comparing runs: what each one reported, which may be compared, and what the formats cost."""
