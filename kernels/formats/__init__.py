"""The number formats, one module each: the torch reference that reads like the specification, and the codes.

`quantize` is the one entry to all of them. May import the ground and, where a function runs, the Triton twins.
"""
