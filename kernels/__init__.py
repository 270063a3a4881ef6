"""The number formats and the products that patched Megatron sources call."""
