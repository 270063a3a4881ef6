"""Nodes of a torch.compile graph that CUDA graphs have to leave out."""

from __future__ import annotations

from typing import Any

import torch

_UNSAFE = getattr(torch.Tag, "cudagraph_unsafe", None)  # torch 2.9


def uncaptured(name: str, schema: str) -> Any:
    """torch.library.custom_op for a pure function that sends tables to the device or waits for it.

    With mode="reduce-overhead" inductor divides the graph at it, and captures what lies between.
    """
    tags = {} if _UNSAFE is None else {"tags": (_UNSAFE,)}
    return torch.library.custom_op(name, mutates_args=(), schema=schema, **tags)
