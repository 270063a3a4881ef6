"""What quantctl inserts into a Megatron tree: one module a patch."""
