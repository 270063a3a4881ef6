"""The compiled twins of the reference for CPUs, equal to it in every bit: numba, without a C compiler.

Loaded by the reference on first use, where numba is installed. May import the ground, formats and products.
"""
