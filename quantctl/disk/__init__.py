"""Files on disk: where quantctl's own lie, how one is replaced all at once, and who may do what with it.

Part of the ground: imports nothing but it, and everything may import this.
"""
