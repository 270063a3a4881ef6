"""Comparing runs: what each one reported, which may be compared, and what the formats cost.

May import the ground, tree and runs; sweep and the commands import it.
"""
