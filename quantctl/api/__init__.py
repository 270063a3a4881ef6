"""The Python face: one tensor or one layer in a format, the linear layers of a model, the table of finished runs.

What `quantctl.quantize` and the like name; quantctl/__init__ brings a module in when it is asked for (docs/api.md). May
import the kernels and the report, and knows nothing of commands and trees.
"""
