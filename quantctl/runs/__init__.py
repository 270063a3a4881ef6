"""One run: its staged tree, its process, and what its directory says: manifest, log, recipe, proof.

May import the ground, tree and history; sweep, report, bench and the commands import it.
"""
