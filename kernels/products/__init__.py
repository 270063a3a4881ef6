"""The products that patched Megatron sources call: linear, grouped experts, attention, unfused and fused.

May import the ground, formats and measure and, where a function runs, the Triton twins. Knows nothing of trees or runs.
"""
