"""The number formats and the products that patched Megatron sources call: the torch reference and its twins.

Rooms: formats, products, triton, measure. Beside them what all share, and the names that patched trees import. Knows
nothing of trees, runs or commands.
"""
