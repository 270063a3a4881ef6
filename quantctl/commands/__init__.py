"""The command line, one module a command, found by its name when it is called; `_*.py` is what several share.

Every command lives here and nothing else does: work is done in the rooms below. May import all of them.
"""
