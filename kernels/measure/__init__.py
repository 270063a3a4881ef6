"""What counts and measures the products of a run: hits, the recorder of --stats, the statistics of an operand.

May import the ground and formats; products call it.
"""
