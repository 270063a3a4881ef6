"""Running a set of modes, models and seeds, and comparing what they reached; `make run` and `make evidence` are two.

May import the ground, launch, runs, report and tree; only the commands import it.
"""
