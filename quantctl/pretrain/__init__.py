"""The embedded trainer: megatron-core's GPTModel on one machine, with Megatron-LM's flags, log lines and checkpoints.

It knows nothing about number formats: a patched tree quantizes in its own layers, which are called as they are. May
import the ground, data and the kernels' recorder.
"""
