"""One tree as it stands and as it would be: finding it, its selectors (ours and a fork's), plans, insertion.

Reads files and writes none. May import the ground and patches; history, runs and everything above import it.
"""
