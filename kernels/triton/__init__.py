"""The Triton twins of the reference, equal to it in every bit; loaded by it on first use, on a device that has Triton.

May import the ground, formats and products, whose definitions they share.
"""
