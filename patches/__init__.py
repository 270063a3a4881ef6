"""What quantctl inserts into a Megatron tree: one module a patch, plain data, each with its reason and its releases.

May import the ground only; tree inserts what stands here.
"""
