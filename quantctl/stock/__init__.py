"""Which code is a Megatron release's own: code compared by structure, our insertions taken out of it again, digests.

Read by tree, which judges a tree, and by the products, which judge the running one. Imports the ground and patches.
"""
