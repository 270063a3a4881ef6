"""Transformer Engine's layers under the selectors: they keep parameters, checkpoints and communication, and where a
format is asked for, Megatron's own patched functions compute their products.

Called by the patched megatron/core/extensions/transformer_engine.py. May import the products.
"""
